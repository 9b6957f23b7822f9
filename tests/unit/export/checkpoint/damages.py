"""Ways to damage a checkpoint, and the one check that a damaged one is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import Checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134904664\n"


DEFAULTS = "serving_defaults.json"


Damage = Callable[[Path], Any]


Tensors = dict[str, torch.Tensor]


EXPERT = "transformer/diffusion_pytorch_model.safetensors"


SCHEDULER = "scheduler/scheduler_config.json"


TOKENIZER = "tokenizer/tokenizer.json"


def edited(name: str, **changes: Any) -> Damage:
    """Change values of a JSON file; `...` removes one."""

    def damage(folder: Path) -> None:
        values = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    return damage


def replaced(name: str, content: str | bytes | None) -> Damage:
    """Replace a file's content, or remove it."""

    def damage(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).unlink() if raw is None else (folder / name).write_bytes(raw)

    return damage


def renamed(component: str, ending: str, new: str) -> Damage:
    """Rename every weight file of a component."""

    def damage(folder: Path) -> None:
        for path in (folder / component).glob(f"*{ending}"):
            path.rename(path.with_name(path.name.replace(ending, new)))

    return damage


def tensors(component: str, change: Callable[[Tensors], Any], config: Damage = lambda folder: None) -> Damage:
    """Change the tensors of a component, and perhaps a config too."""

    def damage(folder: Path) -> None:
        (path,) = (folder / component).glob("*.safetensors")
        found = load_file(path)
        changed = change(found)
        save_file(found if changed is None else changed, path, metadata={"format": "pt"})
        config(folder)

    return damage


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda found: {f"{prefix}{name}": tensor for name, tensor in found.items()}


def both_experts(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        for component in ("transformer", "transformer_2"):
            edited(f"{component}/config.json", **changes)(folder)

    return damage


def truncated(name: str) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate((folder / name).stat().st_size - 100)

    return damage


def half_downloaded(name: str, length: int) -> Damage:
    """Leave the first bytes of a file, and holes up to its length, as a downloader that fetches parts does."""

    def damage(folder: Path) -> None:
        size = (folder / name).stat().st_size
        with (folder / name).open("r+b") as file:
            file.truncate(length)
            file.truncate(size)

    return damage


def check_refused(damage: Damage, message: str, folder: Path) -> None:
    """Refused in one line, both with weights inside the graph and with external ones."""
    damage(folder)
    for external in (False, True):
        with pytest.raises(CheckpointError, match=message) as caught:
            Checkpoint.open(folder).check(external_weights=external)
        assert "\n" not in str(caught.value)
