"""ONNX to a TensorRT plan: parse, fix what is fixed, check, build. Mainline TensorRT and TensorRT-RTX have one API."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx

from export.atomic import write_atomically
from export.graphs.axes import Shape, free_axes, input_shapes, with_fixed_axes
from export.to_plan.build_log import Interrupted, build_log, interruptible, plan_writer, progress_monitor
from export.to_plan.network_check import NetworkFacts, check_attention, demand_fused_attention, network_facts

GIB = 2**30


class BuildError(Exception):
    """A plan that cannot be built; the message holds TensorRT's own words or the remedy."""


@dataclass(frozen=True)
class PlanShapes:
    """Sizes of the graph's free axes under each profile, and how many rows a batch can have.

    An axis of one size in all profiles is fixed in the network. The batch stays an axis of its own: Triton's TensorRT
    backend wants one wherever a model's `max_batch_size` is above zero.
    """

    profiles: tuple[Mapping[str, int], ...]
    max_batch: int = 1
    best_batch: int = 1

    @property
    def fixed(self) -> dict[str, int]:
        """Axes that no profile changes."""
        first, *others = self.profiles
        return {axis: size for axis, size in first.items() if all(other[axis] == size for other in others)}


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    Attributes:
        compute_capabilities: what the plan will run on, such as ("8.9",); ("current",) is the GPU of this machine;
            empty is TensorRT-RTX's own choice, a plan for all GPUs from 8.0 up.
        workspace_gib: memory that one layer may use for itself; None leaves it to TensorRT.
        tf32: whether FP32 products may be computed in TF32 (ten bits of fraction), as TensorRT does by default.
        timing_cache: file of measurements that makes the next build shorter; TensorRT-RTX has none.
        log: file for what TensorRT says.
        title: of the progress bar.
        on_layers: is given TensorRT's listing of the layers that it built; None: not listed.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_gib: float | None = None
    tf32: bool = False
    timing_cache: Path | None = None
    log: Path | None = None
    title: str = ""
    on_layers: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Attention:
    """Whether attention must be TensorRT's fused layer, and how many layers there must be (None: two per block)."""

    layers: int | None = None


def plan_from_onnx(
    trt: Any, source: Path, target: Path, shapes: PlanShapes, settings: BuildSettings, *, attention: Attention | None
) -> NetworkFacts:
    """Build `source` and write the plan to `target`, whole or not at all. Raises BuildError or NetworkError.

    `trt` is the module to build with; `attention` is None where softmax is no part of fused attention.
    """
    with _prepare(trt, source, shapes, settings, attention=attention) as build, write_atomically(target) as partial:
        with partial.open("wb") as file, interruptible() as interrupted:
            done = _write_plan(trt, build, settings, file, interrupted)
        if not done:
            raise BuildError(f"{trt.__name__} cannot build {source}: {_reason(build.log)}{_where(settings)}")
        _finish(build, settings)
        return build.facts


@contextlib.contextmanager
def build_in_memory(
    trt: Any, source: Path, shapes: PlanShapes, settings: BuildSettings, *, attention: Attention | None
) -> Iterator[tuple[Any, NetworkFacts]]:
    """Yield the plan as a buffer, which lives as long as the context. Raises BuildError or NetworkError."""
    with _prepare(trt, source, shapes, settings, attention=attention) as build:
        with interruptible() as interrupted:
            _show_progress(trt, build, settings, interrupted)
            plan = build.builder.build_serialized_network(build.network, build.config)
        if plan is None:
            raise BuildError(f"{trt.__name__} cannot build {source}: {_reason(build.log)}{_where(settings)}")
        _finish(build, settings)
        yield plan, build.facts


def _finish(build: "_Build", settings: BuildSettings) -> None:
    """Keep the timing cache, and hand over the listing of layers."""
    _save_timing_cache(build.config, settings)
    if settings.on_layers is not None:
        settings.on_layers(build.log.listing)


@dataclass
class _Build:
    """What TensorRT builds from. The monitor is held here, since TensorRT keeps no reference of its own."""

    log: Any
    builder: Any
    network: Any
    config: Any
    facts: NetworkFacts
    monitor: Any = None


@contextlib.contextmanager
def _prepare(
    trt: Any, source: Path, shapes: PlanShapes, settings: BuildSettings, *, attention: Attention | None
) -> Iterator[_Build]:
    """Parse and check the network and set what is asked for. Raises BuildError or NetworkError."""
    model = with_fixed_axes(onnx.load(source, load_external_data=False), shapes.fixed)
    with build_log(trt, settings.log) as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX has a timing cache's calls but no cache
        builder = trt.Builder(log)
        if builder is None or log.errors:
            raise BuildError(f"{trt.__name__} cannot build here: {_reason(log)}")
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(model.SerializeToString(), str(source)):
            raise BuildError(f"{trt.__name__} cannot read {source}: {_parser_errors(parser)}")
        demand_fused_attention(trt, network)
        facts = max(
            (_facts(trt, model, network, shapes, profile) for profile in shapes.profiles), key=lambda f: f.largest
        )
        if attention is not None:
            check_attention(facts, attention.layers)
        yield _Build(log, builder, network, _config(trt, builder, model, shapes, settings), facts)


def _write_plan(trt: Any, build: _Build, settings: BuildSettings, file: BinaryIO, interrupted: Interrupted) -> bool:
    """Build into `file`, as a stream where this TensorRT has one: a plan of 28 GB is then in no second place."""
    _show_progress(trt, build, settings, interrupted)
    if hasattr(build.builder, "build_serialized_network_to_stream"):
        writer = plan_writer(trt, file)
        done = build.builder.build_serialized_network_to_stream(build.network, build.config, writer)
        if writer.error is not None:
            raise writer.error
        return bool(done)
    plan = build.builder.build_serialized_network(build.network, build.config)
    if plan is not None:
        file.write(plan)
    return plan is not None


def _show_progress(trt: Any, build: _Build, settings: BuildSettings, interrupted: Interrupted) -> None:
    build.monitor = progress_monitor(trt, settings.title or "plan", interrupted)
    build.config.progress_monitor = build.monitor


def _facts(
    trt: Any, model: onnx.ModelProto, network: Any, shapes: PlanShapes, profile: Mapping[str, int]
) -> NetworkFacts:
    return network_facts(trt, network, input_shapes(model, {**profile, "batch": shapes.max_batch}))


def _config(trt: Any, builder: Any, model: onnx.ModelProto, shapes: PlanShapes, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    if settings.on_layers is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, math.floor(settings.workspace_gib * GIB))
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_target(trt, config, settings.compute_capabilities)
    if settings.timing_cache is not None:
        stored = settings.timing_cache.read_bytes() if settings.timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)
    if free_axes(model):
        for ranges in profile_ranges(model, shapes):
            profile = builder.create_optimization_profile()
            for name, (least, best, most) in ranges.items():
                profile.set_shape(name, least, best, most)
            config.add_optimization_profile(profile)
    return config


def profile_ranges(model: onnx.ModelProto, shapes: PlanShapes) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
    """Smallest, best and largest shape of every input, for each profile."""
    ranges = []
    for profile in shapes.profiles:
        least, best, most = (
            input_shapes(model, {**profile, "batch": batch}) for batch in (1, shapes.best_batch, shapes.max_batch)
        )
        ranges.append({name: (least[name], best[name], most[name]) for name in most})
    return ranges


def _set_target(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    """Mainline TensorRT knows one target, the GPU that it runs on, and has no such setting in all its versions."""
    if capabilities == ("current",) and not hasattr(config, "set_compute_capability"):
        return
    if not capabilities:
        return
    members = [_capability(trt, name) for name in capabilities]
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        if not config.set_compute_capability(member, index):
            raise BuildError(f"{trt.__name__} refuses the compute capability {capabilities[index]}")


def _capability(trt: Any, name: str) -> Any:
    members = trt.ComputeCapability.__members__
    key = "CURRENT" if name == "current" else "SM" + name.replace(".", "")
    if key not in members:
        known = [f"{member[2:-1]}.{member[-1]}" for member in members if member.startswith("SM")]
        raise BuildError(f"compute capability {name!r}, {trt.__name__} knows: current, {', '.join(known)}")
    return members[key]


def _save_timing_cache(config: Any, settings: BuildSettings) -> None:
    if settings.timing_cache is not None:
        with write_atomically(settings.timing_cache) as partial:
            partial.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}" for error in errors)


def _reason(log: Any) -> str:
    return "; ".join(log.errors[:3]) or "it gave no reason"


def _where(settings: BuildSettings) -> str:
    return "" if settings.log is None else f" (all that it said: {settings.log})"
