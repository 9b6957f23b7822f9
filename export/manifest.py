"""Location of an exported graph's ONNX file."""

from pathlib import Path

from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, ManifestError, read_manifest

ONNX = "model.onnx"


def manifest_of(folder: Path) -> GraphManifest | None:
    """The manifest in an exported graph's `folder`; None where there is none that can be read."""
    try:
        return read_manifest(GraphManifest, folder / GRAPH_MANIFEST)
    except (FileNotFoundError, ManifestError):
        return None


def onnx_file(folder: Path) -> Path:
    """`model.onnx` in a graph's `folder`, or the file beside the checkpoint's shards that its manifest names."""
    manifest = manifest_of(folder)
    return folder / (ONNX if manifest is None or manifest.onnx is None else manifest.onnx)
