"""What a graph was made from, with what, and how close it is: `manifest.json` beside each installed graph."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from export.parity import TOLERANCES, Comparison
from export.to_onnx import OPSET

_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime")


def origin(graph: str, checkpoint_sha256: str) -> dict[str, Any]:
    """The part of a manifest that is known before the export: if it is unchanged, the export can be skipped."""
    return {
        "graph": graph,
        "checkpoint_sha256": checkpoint_sha256,
        "exporter_sha256": _exporter_sha256(),
        "opset": OPSET,
        "precision": "fp32",
        "versions": {name: version(name) for name in _PACKAGES},
    }


def manifest(made_from: dict[str, Any], path: Path, parity: Sequence[Comparison]) -> dict[str, Any]:
    """The whole manifest of the ONNX file at `path`."""
    with path.open("rb") as file:
        onnx_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    model = onnx.load(path, load_external_data=False)
    return {
        **made_from,
        "onnx_sha256": onnx_sha256,
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
        "parity": {
            "reference": "the checkpoint's own torch module, fp32, in ONNX Runtime on CPU",
            "tolerance_relative": TOLERANCES[made_from["graph"]].relative,
            "comparisons": [asdict(comparison) for comparison in parity],
        },
    }


def is_current(folder: Path, made_from: dict[str, Any]) -> bool:
    """True if `folder` holds a graph with this origin."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return (folder / "model.onnx").exists() and all(found.get(key) == value for key, value in made_from.items())


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _exporter_sha256() -> str:
    """Hash of the code that shapes a graph: a change in it makes earlier exports stale."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in [*sorted((here / "graphs").glob("*.py")), here / "graph_table.py", here / "to_onnx.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
