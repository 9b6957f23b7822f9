"""Facts of a repository's built plans: measured memory, which replaces placement's estimates, and rows per call.

A plan's manifest, `<graph>/<version>/plan.json`, has `device_memory_bytes`: the bytes of an execution context per
optimisation profile, in the profiles' order, as TensorRT reported them after the build.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.graphs.precision import PART_OF
from export.placement.gpu_memory import ServingProfile, SettingsError
from wan_t2v.contract import EXPERTS
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.manifests import BUILD_PLANS, PLAN_MANIFEST

KEY = "device_memory_bytes"
_REMEDY = (
    f"Build the plans again in the serving image, which measures them: `{BUILD_PLANS} --sizes {{sizes}} ...`; "
    "in Kubernetes remove plan.json of that plan from the volume and run the chart's Job again, as "
    'docs/run/kubernetes.md says ("Run the Job again").'
)


def measured_contexts(repository: Path, profile: ServingProfile) -> dict[str, int]:
    """Return the bytes of all execution contexts by graph, from the plans in `repository` that match the profile.

    Graphs without such a plan are left out. Raises SettingsError for a plan that was not measured.
    """
    contexts = {}
    for graph, part in PART_OF.items():
        if part == "experts" and profile.experts_in_torch:
            continue
        manifests = {path: _read(path) for path in sorted(repository.glob(f"{graph}/*/{PLAN_MANIFEST}"))}
        precisions = {manifest.get("precision") for manifest in manifests.values()}
        sizes = sorted(size for manifest in manifests.values() for size in manifest.get("sizes", []))
        right = sizes in ([], sorted(map(str, profile.sizes)))  # the text encoder's plan has no size
        if right and precisions == {getattr(profile, part)}:
            contexts[graph] = sum(_contexts(path, manifest, profile) for path, manifest in manifests.items())
    return contexts


def rows_of_experts(repository: Path) -> dict[str, int]:
    """Return the rows that a call of each expert's plan takes, which `make plans EXPERT_BATCH=...` decided.

    Without a plan it is 1. Raises SettingsError for a damaged manifest.
    """
    return {expert: min(_rows(repository / expert), default=1) for expert in EXPERTS}


def _rows(model: Path) -> Iterator[int]:
    for path in sorted(model.glob(f"*/{PLAN_MANIFEST}")):
        rows = _read(path).get("batch", 1)
        if type(rows) is not int or rows < 1:
            remedy = _REMEDY.format(sizes="...")
            raise SettingsError(f"{path} has batch {rows!r}, accepted: a whole number from 1 up. {remedy}")
        yield rows


def check_programs(repository: Path, graphs: Sequence[str], command: str) -> None:
    """Refuse a repository that has plans but lacks a torch program of `graphs`. Raises SettingsError."""
    file = GRAPH_FILES["torch"].name
    missing = [graph for graph in graphs if not list(repository.glob(f"{graph}/*/{file}"))]
    if missing and next(repository.glob(f"*/*/{PLAN_MANIFEST}"), None) is not None:
        raise SettingsError(
            f"{repository} has plans, but no {file} of {', '.join(missing)}, which this placement runs in torch. "
            f"Make it: {command}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not valid JSON ({error}). {_REMEDY.format(sizes='...')}") from None
    return manifest if isinstance(manifest, dict) else {}


def _contexts(path: Path, manifest: dict[str, Any], profile: ServingProfile) -> int:
    """Add up the contexts of all profiles: Triton's backend creates one per profile. Raises SettingsError."""
    measured = manifest.get(KEY)
    profiles = manifest.get("profiles")
    numbers = isinstance(measured, list) and all(type(size) is int and size >= 0 for size in measured)
    if not measured or not numbers or (isinstance(profiles, list) and len(measured) != len(profiles)):
        fault = "does not tell" if measured is None else f"has {KEY} {measured!r} for"
        wanted = f"how much memory the plan needs while it runs (accepted: {KEY}, a list with bytes for each profile)"
        remedy = _REMEDY.format(sizes=",".join(map(str, profile.sizes)))
        raise SettingsError(f"{path} {fault} {wanted}. {remedy}")
    return sum(measured)
