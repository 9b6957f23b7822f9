"""Exported graphs to all plans of a deployment.

Layout of the folder, that of a model repository: `<graph>/<version>/model.plan` and `plan.json`; beside them
`logs/<graph>-<version>.log` and TensorRT's timing caches. Everything that can be known is checked before the first
build, which for A14B takes long.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.atomic import written_file, written_folder
from export.onnx_file import onnx_file
from export.plan_manifest import (
    PLAN_FILE,
    Toolchain,
    graph_manifest,
    is_current,
    plan_manifest,
    plan_origin,
    weight_bytes,
)
from export.plan_table import EXPERT_BATCHES, Deployment, PlanSpec, plans_of
from export.sizes import is_trained
from export.to_plan import GIB, BuildError, BuildSettings, plan_from_onnx
from wan_t2v.engines.running_gpu import running_gpu
from wan_t2v.engines.tensorrt_module import tensorrt_module
from wan_t2v.facts import ModelFacts
from wan_t2v.plan_match import PLAN_MANIFEST

logger = logging.getLogger(__name__)

DISK_FACTOR = 1.2  # a plan of wan-mini is up to 1.1 times its graph; the old plan stays until the new one is whole
_RTX = "tensorrt_rtx"


def toolchain(trt: Any, compute_capability: str | None, workspace_gib: float | None) -> Toolchain:
    """Decide what plans are for: by default the GPU of this machine, without one TensorRT-RTX's portable choice.

    `compute_capability` is `current`, `portable` or numbers such as `8.6,8.9`. Raises BuildError.
    """
    gpu = running_gpu()
    wanted = compute_capability or ("portable" if gpu is None else "current")
    if gpu is None and wanted == "current":
        raise BuildError("compute capability `current`, but no GPU is seen here; accepted: portable, or such as 8.9")
    if trt.__name__ != _RTX and wanted != "current":
        raise BuildError(
            f"mainline TensorRT ({trt.__version__}) builds for the GPU that it runs on"
            + (", and there is none here. " if gpu is None else f", not for {wanted!r}. ")
            + "Build on the machine that will serve, or with TensorRT-RTX (--tensorrt tensorrt_rtx)."
        )
    capabilities = () if wanted == "portable" else tuple(part.strip() for part in wanted.split(","))
    return Toolchain(trt.__name__, trt.__version__, gpu, capabilities, workspace_gib)


def built_plans(folder: Path, plans: Path, deployment: Deployment, tools: Toolchain) -> list[PlanSpec]:
    """Build what is not current from the graphs in `folder` into `plans`; every plan appears whole or not at all.

    Raises BuildError or NetworkError; plans that were finished before stay.
    """
    facts = ModelFacts.read(folder)
    if deployment.expert_batch not in EXPERT_BATCHES:
        raise BuildError(f"expert batch {deployment.expert_batch}, accepted: {', '.join(map(str, EXPERT_BATCHES))}")
    for size in deployment.sizes:
        if not is_trained(size, facts):
            logger.warning("%s is not a size that the checkpoint was trained for", size)
    specs = plans_of(deployment, facts)
    origins = [(spec, _origin(spec, folder, deployment, tools)) for spec in specs]
    stale = [(spec, origin) for spec, origin in origins if not is_current(_home(plans, spec), origin)]
    _check_disk(folder, plans, [spec for spec, _ in stale])
    logger.info("%d of %d plans are current, building %d", len(specs) - len(stale), len(specs), len(stale))
    for spec, origin in stale:
        _build(spec, folder, plans, tools, origin)
    return specs


def installed_plans(specs: Sequence[PlanSpec], folder: Path, plans: Path, repository: Path) -> None:
    """Put plans and manifests into a model repository, by hard link where both are on one disk.

    The manifest goes last: after an interruption the server refuses a plan whose hash its manifest does not name.
    """
    for spec in specs:
        home = repository / spec.graph / str(spec.version)
        _placed(folder / spec.graph / "manifest.json", home / "manifest.json")
        for name in (PLAN_FILE, PLAN_MANIFEST):
            _placed(_home(plans, spec) / name, home / name)


def _home(plans: Path, spec: PlanSpec) -> Path:
    return plans / spec.graph / str(spec.version)


def _origin(spec: PlanSpec, folder: Path, deployment: Deployment, tools: Toolchain) -> dict[str, Any]:
    return plan_origin(spec, graph_manifest(folder / spec.graph), deployment, tools)


def _check_disk(folder: Path, plans: Path, specs: Sequence[PlanSpec]) -> None:
    needed = sum(weight_bytes(onnx_file(folder / spec.graph)) for spec in specs) * DISK_FACTOR
    plans.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plans).free
    if needed > free:
        raise BuildError(
            f"{plans}: {len(specs)} plans need about {needed / GIB:.1f} GiB of disk, {free / GIB:.1f} GiB are free. "
            "Free some, or name another folder with --plans."
        )


def _build(spec: PlanSpec, folder: Path, plans: Path, tools: Toolchain, origin: dict[str, Any]) -> None:
    started = time.monotonic()
    source = onnx_file(folder / spec.graph)
    settings = BuildSettings(
        compute_capabilities=tools.compute_capabilities,
        workspace_gib=tools.workspace_gib,
        timing_cache=_timing_cache(plans, tools),
        log=plans / "logs" / f"{spec.graph}-{spec.version}.log",
        title=str(spec),
    )
    with written_folder(_home(plans, spec)) as partial:
        network = plan_from_onnx(
            tensorrt_module(tools.module),
            source,
            partial / PLAN_FILE,
            spec.shapes,
            settings,
            attention=spec.attention,
        )
        seconds = time.monotonic() - started
        manifest = plan_manifest(origin, spec, source, partial / PLAN_FILE, network=network, seconds=seconds)
        (partial / PLAN_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    logger.info("built %s: %.2f GB in %.0f s", spec, manifest["plan_bytes"] / 1e9, seconds)


def _timing_cache(plans: Path, tools: Toolchain) -> Path | None:
    """Measurements hold for one version and one GPU; TensorRT-RTX takes none."""
    if tools.module == _RTX or tools.gpu is None:
        return None
    gpu = tools.gpu.name.replace(" ", "-")
    return plans / f"timing-{tools.version}-{gpu}.cache"


def _placed(source: Path, target: Path) -> None:
    with written_file(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another disk
            shutil.copyfile(source, partial)
