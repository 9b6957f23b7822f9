"""Files that a merge copies: their hashes, by which a changed source is noticed, and the user's own serving defaults.

Users put a `serving_defaults.json` into a merged folder (docs/build/lora.md). A later merge into it carries that over.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import COMPONENTS, Checkpoint
from export.checkpoint.layout import COPIED_FILES, MADE_BY_DRY_RUN, is_dummy, read_copied_files
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.installed_files import sha256_of_file

logger = logging.getLogger(__name__)


def copied_files(checkpoint: Checkpoint, paths: Iterable[Path]) -> dict[str, str]:
    """Return hashes of what a merge copies from `checkpoint`: of each component that no LoRA changes, and of each file.

    Weights are hashed with their component, of a large checkpoint by samples. Experts are in the record of the merge.
    Of a dry run's checkpoint the marker is noted, but not copied: with it the next dry run would replace the merge.
    """
    components = {name: checkpoint.hash_of(name).sha256 for name in COMPONENTS if name not in EXPERT_COMPONENTS}
    files = [path for path in paths if path.suffix != ".safetensors"]
    others = {str(path.relative_to(checkpoint.folder)): sha256_of_file(path) for path in files}
    dummy = {MADE_BY_DRY_RUN: "noted"} if is_dummy(checkpoint.folder) else {}
    return {**components, **others, **dummy}


def write_copied_files(folder: Path, copied: Mapping[str, str]) -> None:
    """Write the hashes into a merged folder."""
    (folder / COPIED_FILES).write_text(json.dumps(copied, indent=1) + "\n", encoding="utf-8")


def carry_over_defaults(merged: Path, new: Path) -> None:
    """Copy serving defaults that a user put into the folder `merged` into the `new` one that will replace it."""
    own = merged / DEFAULTS_FILE
    if not own.is_file():
        return
    copied = read_copied_files(merged)
    if copied is None:
        in_source = new / DEFAULTS_FILE
        as_copied = sha256_of_file(in_source) if in_source.exists() else None
    else:
        as_copied = copied.get(DEFAULTS_FILE)
    if sha256_of_file(own) != as_copied:
        shutil.copyfile(own, new / DEFAULTS_FILE)
        logger.info("kept %s, which is not the source's", own)
