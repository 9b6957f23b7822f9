"""Installation of exported graphs and model files into a model repository, `<model>/1/`."""

import filecmp
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from export.atomic import write_atomically
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.graphs.precision import PART_OF
from export.graphs.registry import GRAPHS
from export.manifest import ONNX
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE
from wan_t2v.installed_files import FILES_MANIFEST, FilesManifest, sha256_of_file
from wan_t2v.manifests import GRAPH_MANIFEST
from wan_t2v.preview import PREVIEW_FILE
from wan_t2v.shapes import VideoShape

VERSION = "1"
# Files that each model reads besides its graph. The manifest is last, so that it is copied last.
READ_BY = {
    "prepare": (FACTS_FILE, DEFAULTS_FILE, TOKENIZER_FILE, FILES_MANIFEST),
    "denoiser": (FACTS_FILE, FILES_MANIFEST),
    "vae_decoder": (FACTS_FILE, FILES_MANIFEST),
    "text_to_video_stream": (FACTS_FILE, PREVIEW_FILE, FILES_MANIFEST),
}


def install_export(folder: Path, repository: Path) -> Path:
    """Copy all graphs and model files from an export `folder` into `repository`, each file atomically.

    Files with the same content are kept. Raises FileNotFoundError for an unfinished export, before anything is copied.
    """
    _install(folder, repository, [f"{graph}/{name}" for graph in PART_OF for name in (ONNX, GRAPH_MANIFEST)])
    return repository


def mark_unfinished(folder: Path, repository: Path) -> None:
    """Have every model refuse to load until `install_model_files` has run: what is installed changes meanwhile.

    The models' manifests get the files in `folder` and no graphs. Raises FileNotFoundError for an unfinished export.
    """
    names = sorted({name for names in READ_BY.values() for name in names} - {FILES_MANIFEST})
    unfinished = FilesManifest({name: sha256_of_file(folder / name) for name in names}, graphs={})
    for model in READ_BY:
        with write_atomically(repository / model / VERSION / FILES_MANIFEST) as partial:
            partial.write_text(unfinished.to_json(), encoding="utf-8")


def install_model_files(folder: Path, repository: Path) -> None:
    """Copy the files that models read besides their graphs. Raises FileNotFoundError for an unfinished export."""
    _install(folder, repository, [])


def check_same_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse an export `folder` of other weights than the checkpoint's. Raises FileNotFoundError or CheckpointError."""
    if not (folder / FILES_MANIFEST).exists():
        raise FileNotFoundError(
            f"{folder / FILES_MANIFEST} is missing: no export, or one that did not finish. "
            f"Run `make export CHECKPOINT={checkpoint.folder}` first, or name its folder."
        )
    exported = FilesManifest.read(folder).graphs
    for graph, origin in GRAPHS.items():
        if exported.get(graph, {}).get("checkpoint_sha256") != checkpoint.hash_of(origin.component).sha256:
            raise CheckpointError(
                f"{folder} was exported from other weights than {checkpoint.folder / origin.component} has. "
                f"Run `make export CHECKPOINT={checkpoint.folder}` again, or name the checkpoint of that export."
            )


def install_without_graphs(folder: Path, repository: Path) -> None:
    """Copy model files and the graphs' manifests, for a repository whose graphs run as torch programs.

    Raises FileNotFoundError for an unfinished export.
    """
    _install(folder, repository, [f"{graph}/{GRAPH_MANIFEST}" for graph in PART_OF])


def set_default_size(repository: Path, size: VideoShape) -> None:
    """Make `size` the default clip size of requests, and update the manifest's hash of the defaults.

    The checkpoint's own default size may have no plans, and `prepare` refuses to load with a default size that is not
    served.
    """
    home = repository / "prepare" / VERSION
    defaults = json.loads((home / DEFAULTS_FILE).read_text(encoding="utf-8"))
    wanted = {"height": size.height, "width": size.width, "num_frames": size.frames}
    changed = {field: value for field, value in wanted.items() if defaults[field]["value"] != value}
    if not changed:
        return
    source = "the first size that is served"
    defaults |= {field: {"value": value, "source": source} for field, value in changed.items()}
    with write_atomically(home / DEFAULTS_FILE) as partial:
        partial.write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")
    manifest = FilesManifest.read(home)
    files = {**manifest.files, DEFAULTS_FILE: sha256_of_file(home / DEFAULTS_FILE)}
    with write_atomically(home / FILES_MANIFEST) as partial:
        partial.write_text(replace(manifest, files=files).to_json(), encoding="utf-8")


def _install(folder: Path, repository: Path, of_graphs: Iterable[str]) -> None:
    """Copy the files `of_graphs`, each `<graph>/<name>`, then those of the models, as far as they differ.

    Files that a running server holds open are replaced and not written to. An installation that breaks off may leave
    graphs of two exports, even of the same weights. So where graphs differ the models' manifests name none until all
    is copied, which each model refuses at its load.
    """
    manifests = [(folder / FILES_MANIFEST, repository / model / VERSION / FILES_MANIFEST) for model in READ_BY]
    graphs = [(folder / name, repository / Path(name).parent / VERSION / Path(name).name) for name in of_graphs]
    files = [
        (folder / name, repository / model / VERSION / name)
        for model, names in READ_BY.items()
        for name in names
        if name != FILES_MANIFEST
    ]
    differing = [pair for pair in (*graphs, *files, *manifests) if _differs(*pair)]
    if {*differing} & {*graphs}:
        mark_unfinished(folder, repository)
        differing = [pair for pair in differing if pair not in manifests] + manifests
    for source, target in differing:
        with write_atomically(target) as partial:
            shutil.copyfile(source, partial)


def _differs(source: Path, target: Path) -> bool:
    """Whether `target` is to be copied. Raises FileNotFoundError for an unfinished export."""
    if not source.exists():
        raise FileNotFoundError(f"{source} is missing: the export did not finish. Run `make export` again.")
    return not (target.exists() and filecmp.cmp(source, target, shallow=False))
