"""Manifest of a plan: its graph, toolchain, target GPUs and shapes. The file format is in `wan_t2v/manifests.py`."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import onnx

from export.checkpoint.folder import Checkpoint
from export.graphs.precision import PART_OF
from export.manifest import onnx_file
from export.to_plan.builder import BuildError, profile_ranges
from export.to_plan.network_check import NetworkFacts
from export.to_plan.plan_specs import PlanSet, PlanSpec
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import (
    GRAPH_MANIFEST,
    PLAN_MANIFEST,
    PORTABLE,
    CheckpointHash,
    GraphManifest,
    ManifestError,
    PlanManifest,
    PlannedDeployment,
    PlanOrigin,
    RunningGpu,
    TensorRtVersion,
    has_origin,
    read_manifest,
)

logger = logging.getLogger(__name__)

PLAN_FILE = "model.plan"
_SLOW_TO_HASH = 1_000_000_000  # bytes: a second or more


@dataclass(frozen=True)
class Toolchain:
    """TensorRT module and version, this machine's GPU (None without one), and the GPUs that plans are for.

    `compute_capabilities` is empty for TensorRT-RTX's portable target, ("current",) for the GPU of this machine.
    """

    module: str
    version: str
    gpu: RunningGpu | None
    compute_capabilities: tuple[str, ...]

    @property
    def target(self) -> str | tuple[str, ...]:
        """Target as manifests name it."""
        return self.compute_capabilities or PORTABLE


def graph_manifest(folder: Path) -> GraphManifest:
    """Read the manifest of the exported graph in `folder`, and check that the graph's hash matches.

    Raises BuildError with the command that repairs it.
    """
    try:
        manifest = read_manifest(GraphManifest, folder / GRAPH_MANIFEST)
    except FileNotFoundError:
        raise BuildError(f"{folder / GRAPH_MANIFEST} is missing. Run `make export CHECKPOINT=...` first.") from None
    except ManifestError as error:
        raise BuildError(str(error)) from None
    path = onnx_file(folder)
    if not path.exists():
        raise BuildError(f"{path} is missing. Run `make export CHECKPOINT=...` first.")
    if sha256_of_file(path) != manifest.onnx_sha256:
        raise BuildError(f"{path} changed since its manifest was written. Run `make export` again.")
    return manifest


def check_graphs(folder: Path, checkpoint: Checkpoint, precisions: Mapping[str, str]) -> None:
    """Refuse graphs of another checkpoint, or in another precision than named in `precisions`, by part.

    Raises BuildError.
    """
    from export.graphs.registry import GRAPHS  # imports torch and diffusers

    for graph, part in PART_OF.items():
        manifest, home = graph_manifest(folder / graph), folder / graph
        made_from = CheckpointHash(manifest.checkpoint_sha256, manifest.checkpoint_sampled)
        if made_from != checkpoint.hash_of(GRAPHS[graph].component):
            raise BuildError(
                f"{home} was not exported from {checkpoint.folder} as it is now. Run `make export CHECKPOINT=...` "
                "again, or name the folder of its graphs."
            )
        named = precisions.get(part, manifest.precision)
        if named != manifest.precision:
            raise BuildError(
                f"{home} is in {manifest.precision}, not in {named}. Name the folder of another export, or export it."
            )


def plan_origin(
    spec: PlanSpec, graph: GraphManifest, tools: Toolchain, *, workspace_gib: float, tf32: bool
) -> PlanOrigin:
    """Return the part of a manifest that is known before the build. While it is unchanged, the plan is current."""
    return PlanOrigin(
        graph=spec.graph,
        version=spec.version,
        sizes=tuple(map(str, spec.sizes)),
        precision=graph.precision,
        checkpoint_sha256=graph.checkpoint_sha256,
        checkpoint_sampled=graph.checkpoint_sampled,
        onnx_sha256=graph.onnx_sha256,
        tensorrt=TensorRtVersion(tools.module, tools.version),
        gpu=tools.gpu,
        target=tools.target,
        workspace_gib=workspace_gib,
        tf32=tf32,
        batch=spec.shapes.max_batch,
        axes=tuple(dict(profile) for profile in spec.shapes.profiles),
        loras=graph.loras,
    )


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that was just built. `device_memory_bytes` is None if the plan cannot be loaded on this machine."""

    path: Path
    source: Path
    network: NetworkFacts
    device_memory_bytes: tuple[int, ...] | None
    seconds: float


def planned_deployment(
    plan_set: PlanSet, graphs: Mapping[str, GraphManifest], *, workspace_gib: float | None, vae_tf32: bool
) -> PlannedDeployment:
    """Return what a run of the plans' build was given: its options, and the graphs by name."""
    return PlannedDeployment(
        tuple(map(str, plan_set.sizes)),
        plan_set.expert_batch,
        precisions={name: graph.precision for name, graph in graphs.items()},
        workspace_gib=workspace_gib,
        vae_tf32=vae_tf32,
        bf16_shards=any(graph.bf16_shards for graph in graphs.values()),
    )


def plan_manifest(origin: PlanOrigin, spec: PlanSpec, run: PlannedDeployment, plan: BuiltPlan) -> PlanManifest:
    """Return the manifest of a built plan."""
    ranges = profile_ranges(onnx.load(plan.source, load_external_data=False), spec.shapes)
    return PlanManifest(
        **{field.name: getattr(origin, field.name) for field in fields(origin)},
        deployment=run,
        plan_sha256=sha256_of_file(plan.path),
        plan_bytes=plan.path.stat().st_size,
        profiles=tuple(
            {name: dict(zip(("min", "opt", "max"), shapes, strict=True)) for name, shapes in profile.items()}
            for profile in ranges
        ),
        network=asdict(plan.network),
        build_seconds=round(plan.seconds, 1),
        device_memory_bytes=plan.device_memory_bytes,
    )


def is_current(folder: Path, origin: PlanOrigin) -> bool:
    """Whether `folder` has an undamaged plan of this origin. The plan set's other sizes do not make it stale."""
    try:
        manifest = read_manifest(PlanManifest, folder / PLAN_MANIFEST)
        size = (folder / PLAN_FILE).stat().st_size
    except (FileNotFoundError, ManifestError):
        return False
    if size != manifest.plan_bytes or not has_origin(manifest, origin):
        return False
    if size >= _SLOW_TO_HASH:
        logger.info("checking %s: %.1f GB", folder / PLAN_FILE, size / 1e9)
    return sha256_of_file(folder / PLAN_FILE) == manifest.plan_sha256
