"""`plan.json`, the manifest beside each plan: what it was built from, with what, for what."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from export.network_check import NetworkFacts
from export.onnx_file import manifest_of, onnx_file
from export.plan_table import Deployment, PlanSpec
from export.to_plan import BuildError, profile_ranges
from wan_t2v.plan_match import PORTABLE, RunningGpu

PLAN_FILE = "model.plan"


@dataclass(frozen=True)
class Toolchain:
    """What builds: the TensorRT module's name and version, the GPU (None: none here), and what plans are for.

    `compute_capabilities` is empty for TensorRT-RTX's own choice, ("current",) for the GPU of this machine.
    """

    module: str
    version: str
    gpu: RunningGpu | None
    compute_capabilities: tuple[str, ...]
    workspace_gib: float | None = None

    @property
    def target(self) -> str | list[str]:
        """As manifests name it."""
        return list(self.compute_capabilities) or PORTABLE


def graph_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the exported graph in `folder`, if it is the graph that lies there.

    Raises BuildError naming the command that mends it.
    """
    manifest = manifest_of(folder)
    path = onnx_file(folder)
    missing = path if manifest else folder / "manifest.json"
    if not manifest or not path.exists():
        raise BuildError(f"{missing} is missing. Run `make export CHECKPOINT=...` first.")
    if sha256(path) != manifest["onnx_sha256"]:
        raise BuildError(f"{path} changed since its manifest was written. Run `make export` again.")
    return manifest


def plan_origin(spec: PlanSpec, graph: Mapping[str, Any], deployment: Deployment, tools: Toolchain) -> dict[str, Any]:
    """The part of a manifest that is known before the build: while it is unchanged, the plan is kept."""
    return {
        "graph": spec.graph,
        "version": spec.version,
        "sizes": [str(size) for size in spec.sizes],
        "precision": graph["precision"],
        "checkpoint_sha256": graph["checkpoint_sha256"],
        "onnx_sha256": graph["onnx_sha256"],
        "tensorrt": {"module": tools.module, "version": tools.version},
        "gpu": None if tools.gpu is None else asdict(tools.gpu),
        "target": tools.target,
        "workspace_gib": tools.workspace_gib,
        "batch": spec.shapes.max_batch,
        "axes": [dict(profile) for profile in spec.shapes.profiles],
        "deployment": {
            "sizes": [str(size) for size in deployment.sizes],
            "expert_batch": deployment.expert_batch,
        },
    }


def plan_manifest(
    origin: Mapping[str, Any], spec: PlanSpec, source: Path, plan: Path, *, network: NetworkFacts, seconds: float
) -> dict[str, Any]:
    """The whole manifest of a plan that was just built from `source`."""
    ranges = profile_ranges(onnx.load(source, load_external_data=False), spec.shapes)
    return {
        **origin,
        "plan_sha256": sha256(plan),
        "plan_bytes": plan.stat().st_size,
        "profiles": [
            {name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True)) for name, shapes in profile.items()}
            for profile in ranges
        ],
        "network": asdict(network),
        "build_seconds": round(seconds, 1),
    }


def is_current(folder: Path, origin: Mapping[str, Any]) -> bool:
    """True if `folder` holds a plan of this origin. The deployment's other sizes do not make a plan stale."""
    try:
        found = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        size = (folder / PLAN_FILE).stat().st_size
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    wanted = {key: value for key, value in origin.items() if key != "deployment"}
    return size == found.get("plan_bytes") and all(found.get(key) == value for key, value in wanted.items())


def weight_bytes(path: Path) -> int:
    """Bytes of a graph's weights, inside the file and beside it: about what its plan will have."""
    model = onnx.load(path, load_external_data=False)
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return path.stat().st_size + sum(int(entry.value) for entry in entries if entry.key == "length")


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
