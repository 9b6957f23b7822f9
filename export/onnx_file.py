"""Where the ONNX file of an exported graph lies, and what its manifest says."""

import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
ONNX = "model.onnx"


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest in an exported graph's `folder`; empty where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def onnx_file(folder: Path) -> Path:
    """`model.onnx` in a graph's `folder`, or the file beside the checkpoint's shards that its manifest names."""
    return folder / str(manifest_of(folder).get("onnx", ONNX))
