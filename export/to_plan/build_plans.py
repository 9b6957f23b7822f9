"""Build of all TensorRT plans of a deployment from exported graphs.

The folder has a model repository's layout: `<graph>/<version>/model.plan` and `plan.json`. Beside them are
`logs/<graph>-<version>.log` and TensorRT's timing caches. Precisions, sizes and disk space are checked before the first
build, since A14B's builds take long.
"""

import filecmp
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.atomic import (
    check_replaceable,
    holds_only,
    remove_leftovers,
    write_atomically,
    write_folder_atomically,
)
from export.checkpoint.architecture import Architecture
from export.disk_space import DiskNeed, check_disk_space, on_one_disk
from export.graphs.precision import PART_OF
from export.graphs.sizes import is_trained
from export.manifest import onnx_file
from export.to_plan.builder import BuildError, BuildSettings
from export.to_plan.estimates import PlanEstimates
from export.to_plan.manifest import (
    PLAN_FILE,
    BuiltPlan,
    Toolchain,
    graph_manifest,
    is_current,
    plan_manifest,
    plan_origin,
    planned_deployment,
)
from export.to_plan.measured_build import PlanBuilder, TensorRtBuilder
from export.to_plan.plan_specs import PlanSet, PlanSpec, check_plan_set, plans_of
from wan_t2v.engines.tensorrt.plan_compatibility import runs_portable_plans
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.engines.tensorrt.tensorrt_module import RTX
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import (
    BUILD_PLANS,
    GRAPH_MANIFEST,
    PLAN_MANIFEST,
    GraphManifest,
    PlanManifest,
    PlannedDeployment,
    PlanOrigin,
    RunningGpu,
    read_manifest,
    to_json,
)

logger = logging.getLogger(__name__)

_IN_THE_IMAGE = f"are built in the serving image, which has mainline TensorRT: {BUILD_PLANS}"
NOT_FOR_THE_BACKEND = (
    "Triton's TensorRT backend cannot load such plans; only the engine `tensorrt` of a Python model can. "
    f"Plans for the backend {_IN_THE_IMAGE}"
)
_holds_a_plan = holds_only(PLAN_FILE, PLAN_MANIFEST)
_holds_an_installed_plan = holds_only(PLAN_FILE, PLAN_MANIFEST, GRAPH_MANIFEST)


@dataclass(frozen=True)
class PlanChoices:
    """Options of `make plans` besides sizes and batch.

    Attributes:
        architecture: the checkpoint's, from which workspace limits are estimated.
        workspace_gib: one workspace limit for all plans; None uses the estimates.
        vae_tf32: whether the VAE's FP32 products may use TF32; no other part may.
    """

    architecture: Architecture
    workspace_gib: float | None = None
    vae_tf32: bool = False

    def __post_init__(self) -> None:
        """Raises BuildError."""
        if self.workspace_gib is not None and not 0 < self.workspace_gib < math.inf:
            raise BuildError(f"workspace of {self.workspace_gib} GiB, accepted: a number above 0")

    def tf32(self, spec: PlanSpec) -> bool:
        """Whether this plan may use TF32."""
        return self.vae_tf32 and PART_OF[spec.graph] == "vae"


def toolchain(trt: Any, compute_capability: str | None) -> Toolchain:
    """Choose the GPUs that plans are built for: by default this machine's GPU, else TensorRT-RTX's portable target.

    `compute_capability` is `current`, `portable` or numbers such as `8.6,8.9`. Raises BuildError.
    """
    gpu = running_gpu()
    wanted = compute_capability or ("portable" if gpu is None else "current")
    if gpu is None and wanted == "current":
        raise BuildError("compute capability `current`, but no GPU is seen here; accepted: portable, or such as 8.9")
    if trt.__name__ != RTX and wanted != "current":
        raise BuildError(
            f"mainline TensorRT ({trt.__version__}) builds for the GPU that it runs on"
            + (", and there is none here. " if gpu is None else f", not for {wanted!r}. ")
            + "Build on the machine that will serve, in the serving image, or with TensorRT-RTX "
            "(--tensorrt tensorrt_rtx)."
        )
    if trt.__name__ == RTX and gpu is not None and wanted == "current" and not _rtx_supports(trt, gpu):
        raise BuildError(
            f"TensorRT-RTX {trt.__version__} would build plans that it then cannot run on {gpu.name}, compute "
            f"capability {gpu.compute_capability}. Plans for this GPU {_IN_THE_IMAGE}"
        )
    capabilities = () if wanted == "portable" else tuple(part.strip() for part in wanted.split(","))
    return Toolchain(trt.__name__, trt.__version__, gpu, capabilities)


def _rtx_supports(trt: Any, gpu: RunningGpu) -> bool:
    """Whether TensorRT-RTX runs on a GPU: it builds for one that its documentation lacks as well, such as Hopper."""
    named = f"SM{gpu.compute_capability.replace('.', '')}" in trt.ComputeCapability.__members__
    return named or runs_portable_plans(gpu.compute_capability)


def build_plans(
    folder: Path,
    plans: Path,
    plan_set: PlanSet,
    tools: Toolchain,
    choices: PlanChoices,
    *,
    builder: PlanBuilder | None = None,
    repository: Path | None = None,
) -> list[PlanSpec]:
    """Build the stale plans from the graphs in `folder` into `plans`, each atomically. Returns all plan specs.

    `repository` is where the plans are installed afterwards, so its disk is checked too.
    Partial plans that a killed build left in `plans` are removed first, so a folder has one builder at a time.
    Raises OccupiedFolderError, BuildError, NetworkError or DiskSpaceError. Plans that were finished before an error are
    kept.
    """
    facts = ModelFacts.read(folder)
    for size in plan_set.sizes:
        if not is_trained(size, facts):
            logger.warning("%s is not a size that the checkpoint was trained for", size)
    specs = plans_of(plan_set, facts)
    graphs = {spec.graph: graph_manifest(folder / spec.graph) for spec in specs}
    precisions = {name: graph.precision for name, graph in graphs.items()}
    check_plan_set(plan_set, specs, precisions)
    estimates = PlanEstimates(choices.architecture, precisions, plan_set)
    for graph in graphs:
        remove_leftovers(plans / graph)
    origins = [(spec, _origin(spec, graphs[spec.graph], tools, choices, estimates)) for spec in specs]
    stale = [(spec, origin) for spec, origin in origins if not is_current(_home(plans, spec), origin)]
    for spec, _ in stale:
        check_replaceable(_home(plans, spec), _holds_a_plan)
    builder = builder or TensorRtBuilder(tools)

    def bytes_of(specs: Iterable[PlanSpec]) -> float:
        return builder.disk_bytes(estimates.disk_bytes(specs))

    needed = bytes_of(spec for spec, _ in stale)
    copies = _installation_need(specs, plans, repository, bytes_of)
    check_disk_space([DiskNeed(plans, needed, f"{len(stale)} plans"), *copies])
    logger.info("%d of %d plans are current, building %d", len(specs) - len(stale), len(specs), len(stale))
    run = planned_deployment(plan_set, graphs, workspace_gib=choices.workspace_gib, vae_tf32=choices.vae_tf32)
    work = _Work(folder, plans, run, tools, builder)
    for spec, origin in stale:
        work.build(spec, origin)
    return specs


def _installation_need(
    specs: Sequence[PlanSpec], plans: Path, repository: Path | None, bytes_of: Callable[[Iterable[PlanSpec]], float]
) -> list[DiskNeed]:
    """Return the disk space of the installed plans. On the disk of `plans` they are hard links and need none.

    A plan that is there already is kept until its successor is complete, so the largest of these counts once.
    """
    if repository is None or on_one_disk(plans, repository):
        return []
    new, replaced = list[PlanSpec](), list[PlanSpec]()
    for spec in specs:
        (replaced if (_home(repository, spec) / PLAN_FILE).exists() else new).append(spec)
    needed = bytes_of(new) + max((bytes_of([spec]) for spec in replaced), default=0.0)
    return [DiskNeed(repository, needed, "copies of the plans")]


def are_installed(specs: Sequence[PlanSpec], plans: Path, repository: Path) -> bool:
    """Whether these plans are in a model repository, by their manifests."""
    pairs = [(_home(plans, spec), repository / spec.graph / str(spec.version)) for spec in specs]
    return all(
        (there / PLAN_MANIFEST).exists() and filecmp.cmp(here / PLAN_MANIFEST, there / PLAN_MANIFEST, shallow=False)
        for here, there in pairs
    )


def install_plans(specs: Sequence[PlanSpec], folder: Path, plans: Path, repository: Path) -> None:
    """Copy plans and manifests into a model repository. On the same disk, plans are hard links.

    A plan's manifest is copied last: after an interruption the server refuses the plan, whose hash the manifest lacks.
    Versions of an earlier set with more sizes are removed, since Triton loads the newest version by default. A warning
    tells of plans of TensorRT-RTX.
    """
    for spec in specs:
        home = repository / spec.graph / str(spec.version)
        _place(folder / spec.graph / GRAPH_MANIFEST, home / GRAPH_MANIFEST)
        for name in (PLAN_FILE, PLAN_MANIFEST):
            _place(_home(plans, spec) / name, home / name)
    for graph in {spec.graph for spec in specs}:
        _remove_other_versions(repository / graph, {str(spec.version) for spec in specs if spec.graph == graph})
    manifests = [read_manifest(PlanManifest, _home(plans, spec) / PLAN_MANIFEST) for spec in specs]
    if any(manifest.tensorrt.module == RTX for manifest in manifests):
        logger.warning("%s has plans of TensorRT-RTX now. %s", repository, NOT_FOR_THE_BACKEND)


def _remove_other_versions(model: Path, versions: Set[str]) -> None:
    """Remove the numbered version folders of a model that are not among `versions`."""
    for home in sorted(path for path in model.iterdir() if path.is_dir() and path.name.isdecimal()):
        if home.name in versions:
            continue
        if not _holds_an_installed_plan(home):
            logger.warning("%s is not of this set of plans, and holds more than a plan: remove it", home)
            continue
        shutil.rmtree(home)
        logger.info("removed %s, which is not of this set of plans", home)


def _home(plans: Path, spec: PlanSpec) -> Path:
    return plans / spec.graph / str(spec.version)


def _origin(
    spec: PlanSpec, graph: GraphManifest, tools: Toolchain, choices: PlanChoices, estimates: PlanEstimates
) -> PlanOrigin:
    limit_gib = choices.workspace_gib
    if limit_gib is None:
        limit_gib = estimates.workspace_gib(spec)
    return plan_origin(spec, graph, tools, workspace_gib=limit_gib, tf32=choices.tf32(spec))


@dataclass(frozen=True)
class _Work:
    """Folders, arguments, toolchain and builder of the builds."""

    folder: Path
    plans: Path
    run: PlannedDeployment
    tools: Toolchain
    builder: PlanBuilder

    def build(self, spec: PlanSpec, origin: PlanOrigin) -> None:
        """Build one plan, measure its memory, and write it with its manifest. Raises BuildError or NetworkError."""
        with write_folder_atomically(_home(self.plans, spec), made_here=_holds_a_plan) as partial:
            manifest = self._build(spec, origin, partial / PLAN_FILE)
            (partial / PLAN_MANIFEST).write_text(to_json(manifest), encoding="utf-8")
        memory = manifest.device_memory_bytes
        measured = "not measured" if memory is None else f"{max(memory) / 1e9:.2f} GB"
        size, seconds = manifest.plan_bytes / 1e9, manifest.build_seconds
        logger.info("built %s: %.2f GB in %.0f s, context memory %s", spec, size, seconds, measured)

    def _build(self, spec: PlanSpec, origin: PlanOrigin, target: Path) -> PlanManifest:
        started = time.monotonic()
        source = onnx_file(self.folder / spec.graph)
        settings = BuildSettings(
            compute_capabilities=self.tools.compute_capabilities,
            workspace_gib=origin.workspace_gib,
            tf32=origin.tf32,
            timing_cache=_timing_cache(self.plans, self.tools),
            log=self.plans / "logs" / f"{spec.graph}-{spec.version}.log",
            title=str(spec),
        )
        network = self.builder.build(spec, source, target, settings)
        seconds = time.monotonic() - started
        memory = self.builder.device_memory_bytes(spec, target)
        return plan_manifest(origin, spec, self.run, BuiltPlan(target, source, network, memory, seconds))


def _timing_cache(plans: Path, tools: Toolchain) -> Path | None:
    """Return the timing cache's path: one file per TensorRT version and GPU. None for TensorRT-RTX, which has none."""
    if tools.module == RTX or tools.gpu is None:
        return None
    gpu = tools.gpu.name.replace(" ", "-")
    return plans / f"timing-{tools.version}-{gpu}.cache"


def _place(source: Path, target: Path) -> None:
    with write_atomically(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another disk
            shutil.copyfile(source, partial)
