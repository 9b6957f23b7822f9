"""Location of an exported graph's ONNX file, and the sources that determine an export."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, ManifestError, read_manifest

ONNX = "model.onnx"
MODULE_SOURCES = (  # with all of export/graphs: the sources that determine a module, whatever it is exported to
    "checkpoint/folder.py",
    "checkpoint/meta_module.py",
    "checkpoint/weights/component_weights.py",
    "weightless_module.py",
)


def sources_sha256(others: Iterable[str]) -> str:
    """Hash the sources that determine a module, and others by their paths in `export/`.

    A change in them makes earlier exports stale.
    """
    here, digest = Path(__file__).parent, hashlib.sha256()
    for path in [*sorted((here / "graphs").glob("*.py")), *map(here.joinpath, (*MODULE_SOURCES, *others))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


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
