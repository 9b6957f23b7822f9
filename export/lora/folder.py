"""Merged checkpoint: a complete folder beside its source checkpoint, written atomically.

The shards of changed experts are new and every other file is copied. Links would not do: external weights lie beside
their graph, where ONNX's tools refuse symbolic and hard links. `merged_loras.json` records the merged files, and goes
into the manifest of every graph that is exported from the folder.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.atomic import remove_leftovers, write_folder_atomically
from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import COMPONENTS, Checkpoint, CheckpointError
from export.checkpoint.layout import is_dummy, read_copied_files
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.checkpoint.weights.tensor_values import check_no_holes
from export.disk_space import DiskNeed, check_disk_space
from export.lora.changes import Change, changes_of
from export.lora.copied_files import carry_over_defaults, copied_files, write_copied_files
from export.lora.experts import LoraChoice
from export.lora.lora_file import LoraError
from export.lora.merge import write_merged_shard
from wan_t2v.manifests import MERGED_LORAS, ManifestError, MergedLora, MergedLoras, read_manifest, to_json

logger = logging.getLogger(__name__)

_FOLDERS = ("scheduler", "tokenizer", *COMPONENTS)
_PIECE_BYTES = 1 << 25
_OF_EXPORTS = (".onnx", ".data")  # earlier exports in place, made from the unmerged weights: not copied


def merge_loras(checkpoint: Checkpoint, choice: LoraChoice, into: Path) -> Path:
    """Merge the chosen files into the experts of `checkpoint`, write the folder `into` and return it.

    A folder that holds the same merge of the same files already is kept, if it is whole. One that holds another merge
    is replaced; serving defaults that a user put into it are carried over.
    Raises LoraError or DiskSpaceError before anything is written, LoraError while writing for a sum beyond the range
    of its type, and CheckpointError for a damaged checkpoint.
    """
    _check_target(checkpoint, into)
    files = choice.open_files()
    experts = {component: _tensors_of(checkpoint.folder, component) for component in files}
    changes = {
        component: changes_of(file, component, experts[component], some_blocks=choice.some_blocks)
        for component, file in files.items()
    }
    record = _record(checkpoint, {component: file.record(choice.scale) for component, file in files.items()})
    merge = _Merge(checkpoint, experts, changes, choice.scale)
    copied = copied_files(checkpoint, merge.unchanged())
    if _read_record(into) == record and read_copied_files(into) == copied and _is_whole(into):
        logger.info("%s holds this merge already", into)
        return into
    _check_can_be_replaced(into)
    remove_leftovers(into.resolve().parent, into.resolve().name)
    check_disk_space([merge.disk_need(into)])
    with write_folder_atomically(into, made_here=_is_merged) as partial, _only_merge_into(into, partial):
        merge.write(partial)
        carry_over_defaults(into, partial)
        write_copied_files(partial, copied)
        (partial / MERGED_LORAS).write_text(to_json(record), encoding="utf-8")
    return into


@contextlib.contextmanager
def _only_merge_into(into: Path, partial: Path) -> Iterator[None]:
    """Name the cause if a later merge into the same folder took this one's `partial` for a leftover.

    Raises LoraError.
    """
    try:
        yield
    except FileNotFoundError:
        if partial.exists():
            raise
        raise LoraError(f"Another merge into {into} began during this one, and goes on. Run one at a time.") from None


@dataclass(frozen=True)
class _Merge:
    """One merge, ready to be written. `experts` has the tensors of changed experts, `changes` their changes."""

    checkpoint: Checkpoint
    experts: Mapping[str, Mapping[str, StoredTensor]]
    changes: Mapping[str, Mapping[str, tuple[Change, ...]]]
    scale: float

    def disk_need(self, into: Path) -> DiskNeed:
        """Return the disk space of the whole folder."""
        files = (*self._shards(), *self.unchanged())
        return DiskNeed(into, sum(map(_allocated, files)), "the merged checkpoint")

    def write(self, folder: Path) -> None:
        """Write every file of the checkpoint into a new folder."""
        for path in self.unchanged():
            _copy(path, folder / path.relative_to(self.checkpoint.folder))
        for component, tensors in self.experts.items():
            for path in sorted({tensor.path for tensor in tensors.values()}):
                inside = {name: tensor for name, tensor in tensors.items() if tensor.path == path}
                target = folder / component / path.name
                write_merged_shard(inside, self.changes[component], scale=self.scale, target=target)
                logger.info("merged %s/%s", component, path.name)

    def _shards(self) -> set[Path]:
        return {tensor.path for tensors in self.experts.values() for tensor in tensors.values()}

    def unchanged(self) -> Iterator[Path]:
        """Yield the top-level files and those of the pipeline's folders, without changed shards and earlier exports."""
        folder, changed = self.checkpoint.folder, self._shards()
        for home in (folder, *(folder / name for name in _FOLDERS)):
            for path in sorted(home.glob("*")):
                ours = path.name == MERGED_LORAS or path.suffix in _OF_EXPORTS or path.name.startswith(".")
                if path.is_file() and not ours and path not in changed:
                    yield path


def _tensors_of(folder: Path, component: str) -> dict[str, StoredTensor]:
    """Index an expert's tensors. Raises CheckpointError, also for holes: a LoRA added to them would hide them."""
    tensors = stored_tensors(folder, component, links_allowed=True)
    if not is_dummy(folder):
        check_no_holes(str(folder / component), tensors)
    return tensors


def _check_target(checkpoint: Checkpoint, into: Path) -> None:
    source, target = checkpoint.folder.resolve(), into.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise LoraError(f"{into} is {source}, inside of it or around it. Name a folder beside it: LORA_INTO=...")
    if into.is_symlink() and not into.exists():
        raise LoraError(
            f"{into} is a link to {into.readlink()}, which is not there. Mount its disk or make that folder, or name "
            "another one: LORA_INTO=..."
        )
    if into.exists() and (not into.is_dir() or (any(into.iterdir()) and not _is_merged(into))):
        raise LoraError(
            f"{into} is there and was not made by a merge (it has no {MERGED_LORAS}). "
            "Remove it, or name another folder: LORA_INTO=..."
        )
    if not _is_merged(into):  # an earlier merge may be the one that is asked for, and is kept then
        _check_can_be_replaced(into)


def _check_can_be_replaced(into: Path) -> None:
    """Refuse a folder that cannot be renamed, or beside which this user may not write. Raises LoraError."""
    target = into.resolve()
    beside = next(folder for folder in target.parents if folder.exists())
    if os.path.ismount(target):
        trouble = f"{target} is where a disk is mounted, and cannot be replaced"
    elif not os.access(beside, os.W_OK | os.X_OK):
        trouble = f"a merge into {target} is first written beside it, and {beside} may not be written to"
    else:
        return
    if not (target.is_dir() and os.access(target, os.W_OK)):
        raise LoraError(f"{into}: {trouble}. Name a folder on a disk that may be written to: LORA_INTO=...")
    linked = f", or make {target / into.name} and link to that" if into.is_symlink() else ""
    raise LoraError(f"{into}: {trouble}. Name a folder inside of it: LORA_INTO={into / into.name}{linked}.")


def _is_merged(folder: Path) -> bool:
    return (folder / MERGED_LORAS).exists()


def _record(checkpoint: Checkpoint, loras: Mapping[str, MergedLora]) -> MergedLoras:
    """Return the record: LoRAs merged into this checkpoint before, then the new ones."""
    earlier = checkpoint.merged_loras.loras if checkpoint.merged_loras else {}
    merged = {
        component: (*earlier.get(component, ()), *([loras[component]] if component in loras else []))
        for component in EXPERT_COMPONENTS
        if component in earlier or component in loras
    }
    return MergedLoras({component: checkpoint.hash_of(component) for component in EXPERT_COMPONENTS}, merged)


def _read_record(folder: Path) -> MergedLoras | None:
    try:
        return read_manifest(MergedLoras, folder / MERGED_LORAS)
    except (FileNotFoundError, ManifestError):
        return None


def _is_whole(folder: Path) -> bool:
    """Whether the headers and lengths of all weight files are right."""
    try:
        Checkpoint.open(folder).check_files()
    except CheckpointError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy a file in chunks. Chunks of zeros become holes, so that a dummy's weights take no disk space."""
    target.parent.mkdir(exist_ok=True)
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(_PIECE_BYTES):
            if piece.count(0) == len(piece):
                write.seek(len(piece), 1)
            else:
                write.write(piece)
        write.truncate()


def _allocated(path: Path) -> int:
    """Return the bytes that a file takes on disk: less than its size for a dummy's sparse shards."""
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)
