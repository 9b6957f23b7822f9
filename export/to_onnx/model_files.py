"""Files that serving reads besides the graphs: facts, defaults, tokenizer, preview map, and their manifest."""

import json
from collections.abc import Mapping
from pathlib import Path

from export.atomic import write_atomically
from export.checkpoint.folder import Checkpoint
from export.checkpoint.tokenizer import save_tokenizer
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE
from wan_t2v.installed_files import FILES_MANIFEST, FilesManifest, sha256_of_file
from wan_t2v.preview import PREVIEW_FILE

MODEL_FILES = (FACTS_FILE, DEFAULTS_FILE, TOKENIZER_FILE, PREVIEW_FILE)


def write_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Write facts, defaults and tokenizer into an export `folder`.

    The manifest of an earlier export is removed first. Raises CheckpointError for a bad tokenizer.
    """
    (folder / FILES_MANIFEST).unlink(missing_ok=True)
    with write_atomically(folder / FACTS_FILE) as partial:
        partial.write_text(checkpoint.facts.to_json(), encoding="utf-8")
    with write_atomically(folder / DEFAULTS_FILE) as partial:
        partial.write_text(json.dumps(checkpoint.defaults, indent=2) + "\n", encoding="utf-8")
    with write_atomically(folder / TOKENIZER_FILE) as partial:
        save_tokenizer(checkpoint.folder, partial)


def seal_model_files(folder: Path, graphs: Mapping[str, Mapping[str, str]]) -> None:
    """Write the manifest of the model files. Call it last, since the server refuses files without a manifest.

    `graphs` has, by graph, the entry of the graph's manifest that identifies its weights.
    """
    files = {name: sha256_of_file(folder / name) for name in MODEL_FILES if (folder / name).exists()}
    with write_atomically(folder / FILES_MANIFEST) as partial:
        partial.write_text(FilesManifest(files, graphs).to_json(), encoding="utf-8")
