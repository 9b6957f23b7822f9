"""Weight files of a component: the shards that its index names, or a single file.

File names are those that diffusers and transformers load. For other files the error describes them and the remedy.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from export.checkpoint.config_file import (
    DOWNLOAD,
    CheckpointError,
    check_is_downloaded,
    check_is_no_pointer,
    object_without_repeats,
    read_text,
    unreadable,
)

_BESIDE = {  # name patterns of files that transformers or diffusers load together with the weights, or in their place
    "adapter_*.safetensors": "an adapter's weights, which would be merged",
    "adapter_*.bin": "an adapter's weights, which would be merged",
    "adapter_config.json": "an adapter's config, by which it would be merged",
    "shard-*-model-*.safetensors": "a shard of a distributed run, which would be loaded instead",
}
_STEMS = {"text_encoder": "model"}  # transformers' file name; diffusers uses `diffusion_pytorch_model`
_SHARD_NAME = re.compile(r"\w[\w.=+ -]{0,199}\.safetensors")
_CONVERT_PICKLE = (
    "Pickled weights are not read, since loading them runs code and a replaced file is not noticed. Load the component "
    "with diffusers (the text encoder with transformers) and `save_pretrained` it, or download the published files: "
    f"`{DOWNLOAD}`."
)
_ELSEWHERE = (  # files found in place of the weights: name patterns, description, remedy
    (("adapter_*.safetensors", "adapter_*.json", "adapter_*.bin", "*lora*"), "a LoRA or PEFT adapter, which is "
     "no model by itself", "Put the model's own weights there, and name the adapter in LORA_HIGH or LORA_LOW."),
    (("*.gguf",), "a GGUF file, whose weights are quantised", f"Take the published weights: `{DOWNLOAD}`."),
    (("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt"), "pickled weights", _CONVERT_PICKLE),
    (("*.msgpack", "*.h5", "*.onnx"), "weights for another library", f"Download the rest: `{DOWNLOAD}`."),
)  # fmt: skip


def weight_stem(component: str) -> str:
    """Return the prefix of a component's weight file names."""
    return _STEMS.get(component, "diffusion_pytorch_model")


def weight_files(checkpoint: Path, component: str, *, links_allowed: bool = False) -> list[Path]:
    """List the component's weight files.

    Raises CheckpointError if one is missing or is a link that is not allowed, and for other files that would be loaded.
    """
    folder = checkpoint / component
    single = folder / f"{weight_stem(component)}.safetensors"
    index = shard_of_tensor(checkpoint, component)
    if index and single.exists():
        raise CheckpointError(
            f"{folder} has both {single.name} and an index of shards, and libraries differ in which they load. "
            "Remove those that are not meant."
        )
    files = sorted({folder / name for name in index.values()}) if index else [single]
    for path in files:
        _check_is_here(path, links_allowed=links_allowed)
    _check_is_alone(folder)
    return files


def shard_of_tensor(checkpoint: Path, component: str) -> dict[str, str]:
    """Return the file name by tensor from the shard index. Empty without an index. Raises CheckpointError."""
    path = checkpoint / component / f"{weight_stem(component)}.safetensors.index.json"
    if not path.exists():
        return {}
    try:
        index = json.loads(read_text(path), object_pairs_hook=object_without_repeats)
        weight_map: dict[str, str] = index["weight_map"]
        names = set(weight_map.values())
        if not isinstance(index["metadata"], dict):  # the libraries fail without it
            raise TypeError("metadata is no object")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of another form
        raise CheckpointError(f"{path} is not an index of shards ({error!r}). Download it again.") from None
    strange = [name for name in names if not _is_shard_name(name)]
    if strange or not names:
        came = f"the file name {str(strange[0])[:80]!r}" if strange else "no file at all"
        raise CheckpointError(f"{path} names {came}, accepted: `.safetensors` files beside it. Download it again.")
    return weight_map


def _is_shard_name(name: object) -> bool:
    """Whether an index may name this file. Links to it lie in a model repository, where it must replace no other."""
    return isinstance(name, str) and _SHARD_NAME.fullmatch(name) is not None


def _check_is_alone(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        what = next((what for pattern, what in _BESIDE.items() if fnmatch(path.name, pattern)), None)
        if what is not None:
            raise CheckpointError(f"{path} is {what}: what is loaded would not be what is checked. Remove it.")


def _check_is_here(path: Path, *, links_allowed: bool) -> None:
    """Refuse a missing file, an LFS pointer, half a download, and a link unless `links_allowed`.

    Raises CheckpointError.
    Graphs cannot refer to links: ONNX Runtime refuses symbolic ones, and the ONNX checker refuses hard ones too.
    """
    if not path.is_file():
        raise CheckpointError(_why_missing(path))
    check_is_downloaded(path)
    try:
        check_is_no_pointer(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if not links_allowed and (path.is_symlink() or path.stat().st_nlink > 1):
        kind = f"a symbolic link (to {path.readlink()})" if path.is_symlink() else "a hard link"
        raise CheckpointError(
            f"{path} is {kind}, as in the hub's cache. The graph refers to the weights beside it, and ONNX's tools "
            f"refuse links there. Copy the checkpoint as real files: `{DOWNLOAD}` or `cp -rL SNAPSHOT FOLDER`."
        )


def _why_missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which is not there. Download the checkpoint again."
    if path.exists():
        return f"{path} is no file. Download the checkpoint again."
    if not path.parent.is_dir():
        return f"{path} is missing (found: no such folder). Download the checkpoint again."
    names = sorted(file.name for file in path.parent.iterdir())
    variant = next(_variants(path, names), None)
    if variant is not None:
        return (
            f"{path} is missing; there is only the variant {variant!r}. Take that word out of the names of the files "
            f"and of those in their index, or download the files without it: `{DOWNLOAD}`."
        )
    for patterns, what, remedy in _ELSEWHERE:
        for name in names:
            if any(fnmatch(name, pattern) for pattern in patterns):
                return f"{path} is missing; in its place is {name}: {what}. {remedy}"
    other = [name for name in names if name.endswith(".safetensors")]
    hint = " Shards need their index file." if any("-of-" in name for name in other) else ""
    return f"{path} is missing (found: {', '.join(names) or 'nothing'}).{hint} Download the checkpoint again."


def _variants(path: Path, names: list[str]) -> Iterator[str]:
    """Yield diffusers' variant names, such as `fp16` in `diffusion_pytorch_model.fp16.safetensors`."""
    stem = path.name.removesuffix(".safetensors")
    for name in names:
        for pattern in (f"{stem}.*.safetensors", f"{stem}.safetensors.index.*.json", f"{stem}.*-*-of-*.safetensors"):
            if fnmatch(name, pattern):
                start = pattern.index("*")
                yield name[start:].split(".")[0].split("-")[0]
