"""Calibrated ranges: largest absolute values, from which FP8 and INT8 scales follow. One JSON file per checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export.atomic import write_atomically
from export.checkpoint.config_file import CheckpointError, is_number

_REMEDY = "Run `python -m export calibrate --checkpoint ...` (on a GPU for A14B)"


@dataclass(frozen=True)
class Fp8Ranges:
    """Result of a calibration, for FP8 and for INT8.

    Attributes:
        checkpoint_hashes: by expert component, so that ranges of other weights are refused.
        ranges: by component and name (`needed_ranges` in `export/graphs/fp8_layers.py`), in the tensor's unit.
        made_with: prompts, steps, size, versions, device.
    """

    checkpoint_hashes: Mapping[str, str]
    ranges: Mapping[str, Mapping[str, float]]
    made_with: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_ranges(path: Path, component: str, *, names: list[str], checkpoint_hash: str) -> Mapping[str, float]:
    """Read the ranges of one expert. Raises CheckpointError if they are missing, incomplete or of other weights."""
    if not path.is_file():
        raise CheckpointError(f"FP8 and INT8 need the ranges of activations, and {path} is missing. {_REMEDY}.")
    calibrated = _parsed(path)
    if calibrated.checkpoint_hashes.get(component) != checkpoint_hash:
        raise CheckpointError(f"{path} was made for other weights of {component}. {_REMEDY} again.")
    ranges = calibrated.ranges.get(component, {})
    bad = [name for name in names if not (is_number(value := ranges.get(name)) and value > 0.0)]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} ranges of {component} are missing or not positive: {bad[:3]}. {_REMEDY} again."
        )
    return ranges


def _parsed(path: Path) -> Fp8Ranges:
    """Read a file that `Fp8Ranges.write` may have written. Raises CheckpointError."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _of_another_kind(path, f"it is not valid JSON: {error}") from None
    expected = {field.name for field in fields(Fp8Ranges)}
    if not isinstance(content, dict) or content.keys() != expected:
        raise _of_another_kind(path, f"it is no object with {', '.join(sorted(expected))}")
    parts = [content["checkpoint_hashes"], content["ranges"]]
    if not all(isinstance(part, dict) for part in parts) or not all(isinstance(r, dict) for r in parts[1].values()):
        raise _of_another_kind(path, "hashes and ranges are not listed by component")
    return Fp8Ranges(**content)


def _of_another_kind(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is no file of calibrated ranges ({reason}). {_REMEDY}, or name the file it wrote.")


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits, or an empty string if the file is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
