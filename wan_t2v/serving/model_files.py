"""The check of a Python model's own files: none is damaged, and none is of another checkpoint than the graphs."""

from collections.abc import Iterable
from pathlib import Path

from wan_t2v.installed_files import InstalledFileError, check_installed
from wan_t2v.serving.python_backend.parameters import read_graph_manifest, version_beside


def check_model_files(folder: Path, names: Iterable[str], *, graphs: Iterable[str]) -> None:
    """Check files of a version folder, and that they were exported from the same weights as the graphs `graphs`.

    Raises FileNotFoundError or InstalledFileError, with the command that repairs the installation.
    """
    manifest = check_installed(folder, names)
    for graph in graphs:
        made_from = manifest.graphs.get(graph, {})
        graph_folder = version_beside(folder, graph)
        graph_manifest = read_graph_manifest(graph_folder)
        if not made_from or any(graph_manifest.get(key) != value for key, value in made_from.items()):
            raise InstalledFileError(
                f"{folder} and {graph_folder} come from different checkpoints, or an installation broke off. "
                "Run the command that installed them again, such as `make export` or `make plans`, for the checkpoint "
                "that is to be served."
            )
