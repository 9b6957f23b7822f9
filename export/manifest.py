"""Location of an exported graph's ONNX file."""

from pathlib import Path

from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, ManifestError, read_manifest

ONNX = "model.onnx"


def manifest_of(folder: Path) -> GraphManifest | None:
    """Read the manifest in an exported graph's `folder`. None if it is missing or invalid."""
    try:
        return read_manifest(GraphManifest, folder / GRAPH_MANIFEST)
    except (FileNotFoundError, ManifestError):
        return None


def onnx_file(folder: Path) -> Path:
    """Return the path of a graph's ONNX file: the path in its manifest, else `model.onnx` in `folder`."""
    manifest = manifest_of(folder)
    return folder / (ONNX if manifest is None or manifest.onnx is None else manifest.onnx)
