"""Manifests: `manifest.json` of an exported graph, `plan.json` of a TensorRT plan, and `merged_loras.json`.

The first two say what a graph or plan was made from, and with which software. `merged_loras.json` names the LoRAs that
were merged into a checkpoint. `parse` reads a whole file, `to_json` writes one. The server reads single keys of a
graph's manifest, and so serves a graph whose manifest lacks others.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

GRAPH_MANIFEST = "manifest.json"
PLAN_MANIFEST = "plan.json"
MERGED_LORAS = "merged_loras.json"
PORTABLE = "portable"  # TensorRT-RTX's own choice of targets
BUILD_PLANS = "python3 -m deploy.image.build_plans"  # in the serving image, whose TensorRT a plan must fit

T = TypeVar("T")


class ManifestError(ValueError):
    """A manifest with a missing or wrong entry; the message names the file, the key and the remedy."""


@dataclasses.dataclass(frozen=True)
class CheckpointHash:
    """SHA-256 of a checkpoint's component. `sampled`: it covers only headers and the first 4 KiB of every tensor."""

    sha256: str
    sampled: bool = False


@dataclasses.dataclass(frozen=True)
class MergedLora:
    """A LoRA that was merged into an expert: its file's name and SHA-256, and its strength.

    `config_sha256` is that of PEFT's `adapter_config.json`, if it was beside the file and its alpha was used.
    """

    file: str
    sha256: str
    scale: float
    config_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class MergedLoras:
    """`merged_loras.json` in the folder of a checkpoint that was made by merging LoRAs.

    Attributes:
        base: hashes of the experts before the merge, by component.
        loras: LoRAs that were merged into each expert, in this order.
    """

    base: Mapping[str, CheckpointHash]
    loras: Mapping[str, tuple[MergedLora, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphOrigin:
    """Inputs of a graph's export, known before it runs. While they are unchanged, the installed graph is kept.

    Attributes:
        checkpoint_sha256, checkpoint_sampled: the component's CheckpointHash.
        fp8_ranges_sha256: hash of the calibrated ranges; None for a precision that needs none.
        bf16_shards: whether the weights are read from BF16 copies of the checkpoint's shards.
        loras: LoRAs that were merged into the component; None for a component as it was published.
    """

    graph: str
    checkpoint_sha256: str
    checkpoint_sampled: bool = False
    exporter_sha256: str
    opset: int
    precision: str
    versions: Mapping[str, str]
    fp8_ranges_sha256: str | None = None
    bf16_shards: bool = False
    loras: tuple[MergedLora, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Deviation of a graph from its torch module; `not_compared` is the reason why `comparisons` is empty."""

    reference: str
    tolerance_relative: float | None = None
    comparisons: tuple[Mapping[str, Any], ...] = ()
    not_compared: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphManifest(GraphOrigin):
    """`manifest.json` of an exported graph.

    A graph that was exported in place, beside the checkpoint's weights, also has `onnx`, its path. Its `weights` and
    `structure` count what it holds.
    """

    onnx_sha256: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    dtypes: Mapping[str, str]
    parity: Parity
    onnx: str | None = None
    weights: Mapping[str, Any] | None = None
    structure: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class RunningGpu:
    """A GPU as the driver names it; `compute_capability` such as `9.0`, `driver` such as `580.65.06`.

    `driver` is for people to read. It is not compared, since a plan is not tied to the driver that it was built with.
    """

    name: str
    compute_capability: str
    driver: str = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class TensorRtVersion:
    """A TensorRT: `module` is `tensorrt` or `tensorrt_rtx`."""

    module: str
    version: str


@dataclasses.dataclass(frozen=True)
class PlannedDeployment:
    """Arguments of the run of `python -m export plans` that built a plan, and of the export of its graphs.

    Attributes:
        sizes, expert_batch: clip sizes, and rows per expert batch.
        precisions: precision of every graph; None in older manifests, which have only the plan's own.
        workspace_gib: the limit that was named for all plans; None if it was estimated for each.
        vae_tf32: whether the VAE's plans may use TF32, whichever graph this plan is of.
        bf16_shards: whether the experts' graphs read BF16 copies of the checkpoint's shards.
    """

    sizes: tuple[str, ...]
    expert_batch: int
    precisions: Mapping[str, str] | None = None
    workspace_gib: float | None = None
    vae_tf32: bool = False
    bf16_shards: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOrigin:
    """Inputs of a plan's build, known before it runs. While they are unchanged, the installed plan is kept.

    Attributes:
        version: Triton's model version.
        sizes: clip sizes, one per profile; empty for the text encoder.
        gpu: GPU of the machine that builds the plan; None without one.
        target: PORTABLE, or compute capabilities such as `8.9`, or `current` alone.
        workspace_gib: memory that one layer of the plan may use for itself.
        tf32: whether FP32 products may be computed in TF32.
        axes: sizes of the graph's dynamic axes, per profile.
        loras: LoRAs merged into the graph's component.
    """

    graph: str
    version: int
    sizes: tuple[str, ...]
    precision: str
    checkpoint_sha256: str
    checkpoint_sampled: bool = False
    onnx_sha256: str
    tensorrt: TensorRtVersion
    gpu: RunningGpu | None = None
    target: str | tuple[str, ...]
    workspace_gib: float
    tf32: bool
    batch: int
    axes: tuple[Mapping[str, int], ...]
    loras: tuple[MergedLora, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanManifest(PlanOrigin):
    """`plan.json` of a TensorRT plan.

    Attributes:
        profiles: smallest, best and largest shape of every input, per profile.
        network: counts taken of the network, for people to read.
        device_memory_bytes: memory of an execution context per profile, measured by loading the plan once. None if
            the build had no GPU that could load it.
    """

    deployment: PlannedDeployment
    plan_sha256: str
    plan_bytes: int
    profiles: tuple[Mapping[str, Mapping[str, tuple[int, ...]]], ...]
    network: Mapping[str, Any]
    build_seconds: float
    device_memory_bytes: tuple[int, ...] | None = None


Manifest = TypeVar("Manifest", GraphManifest, PlanManifest, MergedLoras)
_MADE_BY: Mapping[type, str] = {
    GraphManifest: "make export",
    PlanManifest: BUILD_PLANS,
    MergedLoras: "make export LORA_HIGH=... LORA_LOW=...",
}


def read_manifest(kind: type[Manifest], path: Path) -> Manifest:
    """Read a manifest file. Raises FileNotFoundError, or ManifestError for one that is damaged or too old."""
    try:
        return parse(kind, path.read_text(encoding="utf-8"))
    except (ManifestError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}. Run `{_MADE_BY[kind]}` again.") from None


def parse(kind: type[Manifest], text: str) -> Manifest:
    """Parse the text of a manifest; keys that this version does not know are ignored. Raises ManifestError."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not valid JSON ({error})") from None
    return _dataclass(kind, raw, "")


def to_json(manifest: GraphManifest | PlanManifest | MergedLoras) -> str:
    """Return a manifest as JSON text, without the entries that are None."""
    return json.dumps(_without_none(dataclasses.asdict(manifest)), indent=2) + "\n"


def has_origin(manifest: GraphOrigin | PlanOrigin, origin: GraphOrigin | PlanOrigin) -> bool:
    """Whether the fields that a manifest shares with `origin` equal those of `origin`."""
    names = [field.name for field in dataclasses.fields(origin)]
    return all(getattr(manifest, name) == getattr(origin, name) for name in names)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list | tuple) else value


def _dataclass(kind: type[T], raw: Any, where: str) -> T:
    if not isinstance(raw, dict):
        raise ManifestError(f"{where.rstrip('.') or 'the file'} is {type(raw).__name__}, expected an object")
    hints = get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # every kind here is a dataclass
        if field.name in raw:
            values[field.name] = _value(hints[field.name], raw[field.name], f"{where}{field.name}")
        elif field.default is dataclasses.MISSING:
            raise ManifestError(f"{where}{field.name} is missing")
    return kind(**values)


def _value(hint: Any, raw: Any, where: str) -> Any:
    """Convert `raw`, a JSON value, to the type `hint`. Raises ManifestError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return raw
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, raw, where)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, raw, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple and isinstance(raw, list):
        return tuple(_value(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(raw))
    if origin is not None and issubclass(origin, Mapping) and isinstance(raw, dict):
        return {key: _value(arguments[1], entry, f"{where}.{key}") for key, entry in raw.items()}
    if isinstance(hint, type) and isinstance(raw, hint) and isinstance(raw, bool) == (hint is bool):
        return raw
    if hint is float and type(raw) is int:
        return float(raw)
    expected = getattr(hint, "__name__", hint) if origin is None else {tuple: "list"}.get(origin, "object")
    raise ManifestError(f"{where} is {type(raw).__name__}, expected {expected}")


def _first_that_fits(hints: tuple[Any, ...], raw: Any, where: str) -> Any:
    for hint in hints:
        try:
            return _value(hint, raw, where)
        except ManifestError as error:
            refusal = error
    raise refusal
