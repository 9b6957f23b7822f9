"""Manifest of an exported graph: its origin, the versions of tools, and its parity with the module."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import onnx

from export.manifest import manifest_of, onnx_file, sources_sha256
from export.parity.graph_parity import Comparison, tolerance
from export.to_onnx.check import dtypes
from export.to_onnx.exporter import OPSET
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import CheckpointHash, GraphManifest, GraphOrigin, MergedLora, Parity, has_origin

_SHAPE_A_GRAPH = (  # with those that determine its module
    "to_onnx/exporter.py",
    "to_onnx/weightless_graph.py",
    "to_onnx/external_data.py",
    "quantisation/weights.py",
)
_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime")


def origin(
    graph: str,
    checkpoint: CheckpointHash,
    precision: str = "fp32",
    *,
    fp8_ranges_sha256: str | None = None,
    bf16_shards: bool = False,
    loras: tuple[MergedLora, ...] | None = None,
) -> GraphOrigin:
    """Return the part of a manifest that is known before the export. While it is unchanged, the graph is current."""
    return GraphOrigin(
        graph=graph,
        checkpoint_sha256=checkpoint.sha256,
        checkpoint_sampled=checkpoint.sampled,
        exporter_sha256=sources_sha256(_SHAPE_A_GRAPH),
        opset=OPSET,
        precision=precision,
        versions={name: version(name) for name in _PACKAGES},
        fp8_ranges_sha256=fp8_ranges_sha256,
        bf16_shards=bf16_shards,
        loras=loras,
    )


def graph_manifest(
    made_from: GraphOrigin, path: Path, parity: Sequence[Comparison], *, not_compared: str | None = None
) -> GraphManifest:
    """Return the manifest of the ONNX file at `path`. `not_compared` is the reason for an empty `parity`."""
    model = onnx.load(path, load_external_data=False)
    accepted = tolerance(made_from.graph, made_from.precision)
    return GraphManifest(
        **{field.name: getattr(made_from, field.name) for field in fields(made_from)},
        onnx_sha256=sha256_of_file(path),
        inputs={value.name: _shape(value) for value in model.graph.input},
        outputs={value.name: _shape(value) for value in model.graph.output},
        dtypes=dtypes(model),
        parity=Parity(
            reference="the checkpoint's own torch module, fp32, in ONNX Runtime on CPU",
            tolerance_relative=accepted.relative if accepted else None,
            comparisons=tuple(asdict(comparison) for comparison in parity),
            not_compared=not_compared,
        ),
    )


def is_current(folder: Path, made_from: GraphOrigin) -> bool:
    """Whether `folder` has an undamaged graph of this origin, or its manifest while the graph is elsewhere."""
    manifest, path = manifest_of(folder), onnx_file(folder)
    if manifest is None or not path.exists() or not has_origin(manifest, made_from):
        return False
    if manifest.onnx_sha256 != sha256_of_file(path):
        return False
    return manifest.onnx is None or _weights_are_there(path)


def _weights_are_there(path: Path) -> bool:
    """Whether the files that a graph refers to exist and are long enough."""
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            file = path.parent / place["location"]
            if not file.is_file() or file.stat().st_size < int(place["offset"]) + int(place["length"]):
                return False
    return True


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
