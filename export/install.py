"""Put exported graphs and facts where Triton and the model shells read them: `model_repository/<model>/1/`."""

import filecmp
import shutil
from pathlib import Path

from export.atomic import written_file
from export.onnx_file import ONNX
from export.precision import PART_OF
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE
from wan_t2v.installed_files import FILES_MANIFEST
from wan_t2v.manifests import GRAPH_MANIFEST
from wan_t2v.preview import PREVIEW_FILE

VERSION = "1"
# what each model reads besides the graphs; the manifest goes last
READ_BY = {
    "prepare": (FACTS_FILE, DEFAULTS_FILE, TOKENIZER_FILE, FILES_MANIFEST),
    "denoiser": (FACTS_FILE, FILES_MANIFEST),
    "vae_decoder": (FACTS_FILE, FILES_MANIFEST),
    "text_to_video_stream": (FACTS_FILE, PREVIEW_FILE, FILES_MANIFEST),
}


def installed(folder: Path, repository: Path) -> Path:
    """Copy everything from an export `folder` into `repository`; each file appears whole or not at all.

    Files that are already there are left alone. The manifest goes last: after an interruption the server refuses the
    graph, whose hash its manifest does not name.
    """
    for model, names in READ_BY.items():
        for name in names:
            _copy(folder / name, repository / model / VERSION / name)
    for graph in PART_OF:
        for name in (ONNX, GRAPH_MANIFEST):
            _copy(folder / graph / name, repository / graph / VERSION / name)
    return repository


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"{source} is missing: the export did not finish. Run `make export` again.")
    if target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    with written_file(target) as partial:
        shutil.copyfile(source, partial)
