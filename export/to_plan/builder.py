"""Build of one TensorRT plan from ONNX: fix axes, parse, check, build. For mainline TensorRT and TensorRT-RTX."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx

from export.atomic import write_atomically
from export.errors import ExpectedError
from export.graphs.axes import Shape, free_axes, input_shapes, with_fixed_axes
from export.interruption import Interrupted, interruptible
from export.to_plan.build_log import build_log, plan_writer, progress_monitor
from export.to_plan.network_check import NetworkFacts, check_attention, demand_fused_attention, network_facts

logger = logging.getLogger(__name__)

GIB = 2**30


class BuildError(ExpectedError):
    """A plan that cannot be built. The message has TensorRT's own error or the remedy."""


@dataclass(frozen=True)
class PlanShapes:
    """Sizes of the graph's free axes per optimisation profile, and the batch sizes.

    An axis with the same size in all profiles is fixed in the network. The batch axis stays dynamic, as Triton's
    TensorRT backend requires for a model with `max_batch_size` above zero.
    """

    profiles: tuple[Mapping[str, int], ...]
    max_batch: int = 1
    best_batch: int = 1

    @property
    def fixed(self) -> dict[str, int]:
        """Axes that have the same size in all profiles."""
        first, *others = self.profiles
        return {axis: size for axis, size in first.items() if all(other[axis] == size for other in others)}


@dataclass(frozen=True)
class BuildSettings:
    """Settings of a build.

    Attributes:
        compute_capabilities: GPUs that the plan is for, such as ("8.9",); ("current",) is this machine's GPU. Empty is
            TensorRT-RTX's default, a plan for all GPUs from 8.0 up.
        workspace_gib: limit of a layer's workspace in GiB; None is TensorRT's default.
        tf32: whether FP32 products may use TF32 (ten bits of fraction), which is TensorRT's default.
        timing_cache: file of tactic timings that shortens later builds; TensorRT-RTX has none.
        log: file for TensorRT's messages; None writes none.
        title: label of the progress bar.
        on_layers: called with TensorRT's list of the built layers; with None, the layers are not listed.
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
    """Requirement that attention is TensorRT's attention layer.

    `layers` is the required number; None accepts any even number above zero, since a block has two.
    """

    layers: int | None = None


def plan_from_onnx(
    trt: Any, source: Path, target: Path, shapes: PlanShapes, settings: BuildSettings, *, attention: Attention | None
) -> NetworkFacts:
    """Build the ONNX file `source` and write the plan to `target`, atomically. Raises BuildError or NetworkError.

    `trt` is the TensorRT module. `attention` is None for a graph whose attention need not be TensorRT's layer.
    """
    with _prepare(trt, source, shapes, settings, attention=attention) as build, write_atomically(target) as partial:
        with partial.open("wb") as file, _keep_timings(build, settings), interruptible() as interrupted:
            done = _write_plan(trt, build, settings, file, interrupted)
        if not done:
            raise _failure(trt, source, build, settings)
        _list_layers(build, settings)
        return build.facts


@contextlib.contextmanager
def build_in_memory(
    trt: Any, source: Path, shapes: PlanShapes, settings: BuildSettings, *, attention: Attention | None
) -> Iterator[tuple[Any, NetworkFacts]]:
    """Yield the plan as a buffer, valid inside the context, and the network's facts.

    Raises BuildError or NetworkError.
    """
    with _prepare(trt, source, shapes, settings, attention=attention) as build:
        with _keep_timings(build, settings), interruptible() as interrupted:
            _show_progress(trt, build, settings, interrupted)
            plan = build.builder.build_serialized_network(build.network, build.config)
        if plan is None:
            raise _failure(trt, source, build, settings)
        _list_layers(build, settings)
        yield plan, build.facts


@contextlib.contextmanager
def _keep_timings(build: "_Build", settings: BuildSettings) -> Iterator[None]:
    """Save the timing cache after a build, also after one that failed or was stopped.

    A cache that cannot be saved, or that TensorRT does not hand out, is a warning: the plan may have taken hours.
    """
    try:
        yield
    finally:
        if settings.timing_cache is not None:
            try:
                _save_timing_cache(build.config, settings.timing_cache)
            except Exception as error:
                logger.warning("the timings of %s are not kept: %s", settings.title or "the plan", error)


def _list_layers(build: "_Build", settings: BuildSettings) -> None:
    """Call `on_layers` with the list of layers."""
    if settings.on_layers is not None:
        settings.on_layers(build.log.listing)


@dataclass
class _Build:
    """Objects of one build. `monitor` keeps the progress monitor alive, since TensorRT holds no reference to it."""

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
    """Parse and check the network, and configure the build. Raises BuildError or NetworkError."""
    model = with_fixed_axes(onnx.load(source, load_external_data=False), shapes.fixed)
    with build_log(trt, settings.log) as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX has a timing cache's API, not the cache
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
    """Build into `file`. Returns whether a plan was built.

    A TensorRT with a stream writer is used through it: a plan of 28 GB is then not in memory as well.
    """
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
    """Return TensorRT's min, opt and max shape of every input, per profile."""
    ranges = []
    for profile in shapes.profiles:
        least, best, most = (
            input_shapes(model, {**profile, "batch": batch}) for batch in (1, shapes.best_batch, shapes.max_batch)
        )
        ranges.append({name: (least[name], best[name], most[name]) for name in most})
    return ranges


def _set_target(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    """Set the compute capabilities to build for. Raises BuildError for unknown ones.

    Mainline TensorRT has one target, the GPU that it runs on, and some of its versions lack the setting.
    """
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


def _save_timing_cache(config: Any, path: Path) -> None:
    with write_atomically(path) as partial:
        partial.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}" for error in errors)


def _reason(log: Any) -> str:
    return "; ".join(log.errors[:3]) or "it gave no reason"


def _failure(trt: Any, source: Path, build: _Build, settings: BuildSettings) -> BuildError:
    limit = ""
    if settings.workspace_gib is not None:
        kept = "" if settings.timing_cache is None else "; timings are kept"
        limit = (
            f". The workspace was limited to {settings.workspace_gib:g} GiB: if that is the reason, try a larger one "
            f"with WORKSPACE_GIB (--workspace-gib){kept}"
        )
    return BuildError(f"{trt.__name__} cannot build {source}: {_reason(build.log)}{limit}{_where(settings)}")


def _where(settings: BuildSettings) -> str:
    return "" if settings.log is None else f" (all that it said: {settings.log})"
