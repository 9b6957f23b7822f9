"""Calibrated ranges: the largest absolute values seen, which give FP8's scales. One JSON file per checkpoint."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.atomic import write_atomically
from export.checkpoint.folder import CheckpointError


@dataclass(frozen=True)
class Fp8Ranges:
    """What calibration brought.

    Attributes:
        checkpoint_hashes: of each expert's component, so that ranges of other weights are not used.
        ranges: by component and name (`export/graphs/fp8_layers.py`, `needed_ranges`), in the tensor's own unit.
        made_with: prompts, steps, size, versions, device.
    """

    checkpoint_hashes: Mapping[str, str]
    ranges: Mapping[str, Mapping[str, float]]
    made_with: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_ranges(path: Path, component: str, *, names: list[str], checkpoint_hash: str) -> Mapping[str, float]:
    """The ranges of one expert. Raises CheckpointError if there are none, or of other weights, or not all."""
    remedy = "Run `python -m export calibrate --checkpoint ...` (on a GPU for A14B)"
    if not path.is_file():
        raise CheckpointError(f"FP8 and INT8 need the ranges of activations, and {path} is missing. {remedy}.")
    calibrated = Fp8Ranges(**json.loads(path.read_text(encoding="utf-8")))
    if calibrated.checkpoint_hashes.get(component) != checkpoint_hash:
        raise CheckpointError(f"{path} was made for other weights of {component}. {remedy} again.")
    ranges = calibrated.ranges[component]
    bad = [name for name in names if not 0.0 < ranges.get(name, math.nan) < math.inf]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} ranges of {component} are missing or not positive: {bad[:3]}.")
    return ranges


def sha256_of(path: Path) -> str:
    """Hash of the file; empty if it is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
