"""Weights that are not what they seem: each is refused before any work, in one line with the remedy."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import COMPONENTS, Checkpoint
from tests.unit.export.checkpoint.damages import (
    EXPERT,
    POINTER,
    Damage,
    Tensors,
    both_experts,
    check_refused,
    prefixed,
    renamed,
    replaced,
    tensors,
    truncated,
)


def scaled_fp8(found: Tensors) -> None:
    for name in [name for name in found if name.endswith("to_q.weight")]:
        found[name] = found[name].to(torch.float8_e4m3fn)
        found[name.replace(".weight", ".scale_weight")] = torch.ones(1)


def scales_alone(found: Tensors) -> None:
    found["blocks.0.attn1.to_q.scale_weight"] = torch.ones(1)


def lora(found: Tensors) -> Tensors:
    return {f"transformer.blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}


def unmerged_peft(found: Tensors) -> None:
    found["blocks.0.attn1.to_q.base_layer.weight"] = found.pop("blocks.0.attn1.to_q.weight")


def original_names(found: Tensors) -> Tensors:
    return {name.replace("attn1.to_", "self_attn."): tensor for name, tensor in found.items()}


def with_nan(found: Tensors) -> None:
    found["proj_out.bias"][3] = math.nan


def with_infinity(found: Tensors) -> None:
    found["decoder.conv_out.bias"] = torch.tensor([0.0, math.inf, 0.0]).to(torch.float16)


def one_layer_less(found: Tensors) -> None:
    for name in [name for name in found if name.startswith("blocks.1.")]:
        del found[name]


def one_of_another_shape(found: Tensors) -> None:
    found["proj_out.weight"] = found["proj_out.weight"].T.contiguous()


def index_of_shards(weight_map: Any, text: str | None = None) -> Damage:
    """An index in place of the one file's role."""

    def damage(folder: Path) -> None:
        path = folder / "vae/diffusion_pytorch_model.safetensors"
        path.rename(path.with_name("one.safetensors"))
        path.with_name(f"{path.name}.index.json").write_text(
            text or json.dumps({"metadata": {}, "weight_map": weight_map})
        )

    return damage


WEIGHTS: dict[str, tuple[Damage, str]] = {
    "scaled FP8": (tensors("transformer", scaled_fp8), "is stored in FP8 .F8_E4M3.*; PRECISION=fp8 quantises"),
    "scales beside": (
        tensors("transformer", scales_alone),
        "this looks like scaled FP8 weights, .* PRECISION=fp8 quantises",
    ),
    "a LoRA": (tensors("transformer", lora), "transformer: this looks like a LoRA .*LORA_HIGH=FILE"),
    "an unmerged PEFT model": (tensors("transformer_2", unmerged_peft), "this looks like an unmerged PEFT model"),
    "Wan's own names": (
        tensors("transformer", original_names),
        "names of Wan's original code .*convert_wan_to_diffusers",
    ),
    "ComfyUI's names": (tensors("transformer", prefixed("model.diffusion_model.")), "checkpoint of ComfyUI or of the"),
    "a wrapped module": (tensors("vae", prefixed("module.")), "every name begins with 'module.'.*save_pretrained"),
    "a compiled module": (tensors("vae", prefixed("_orig_mod.")), "every name begins with '_orig_mod.'"),
    "surplus layers": (
        tensors("transformer", lambda found: None, both_experts(num_layers=1)),
        "the weights do not fit config.json; tensors .* surplus: blocks.1",
    ),
    "missing layers": (tensors("transformer_2", one_layer_less), "transformer_2: .* missing: blocks.1"),
    "a misshapen tensor": (tensors("transformer", one_of_another_shape), "1 of another shape: proj_out.weight is"),
    "NaN": (tensors("transformer", with_nan), "1 tensors hold values that are infinite or no numbers: proj_out.bias"),
    "an infinity": (tensors("vae", with_infinity), "infinite or no numbers: decoder.conv_out.bias"),
    "integers": (
        tensors("vae", lambda found: found.update({"decoder.conv_out.bias": torch.ones(3, dtype=torch.int8)})),
        "decoder.conv_out.bias is stored as I8, accepted: F32, F16, BF16",
    ),
    "pickled weights": (
        renamed("text_encoder", ".safetensors", ".bin"),
        "in its place is model.bin: pickled weights. .*save_pretr",
    ),
    "GGUF": (renamed("transformer", ".safetensors", "-Q4_K_M.gguf"), "in its place is .*Q4_K_M.gguf: a GGUF file"),
    **{
        f"{name} in {component}": (replaced(f"{component}/{name}", b""), f"{component}/{name} is {what}.* Remove it")
        for component in COMPONENTS
        for name, what in {
            "adapter_config.json": "an adapter's config",
            "adapter_model.safetensors": "an adapter's weights",
            "shard-00001-model-00001-of-00001.safetensors": "a shard of a distributed run",
        }.items()
    },
    **{
        f"a shard with the name {name}": (
            index_of_shards({"a": name}),
            f"names the file name '{name}', accepted: `.safetensors` files beside it",
        )
        for name in ("model.py", "config.pbtxt", ".safetensors", ".hidden.safetensors", "x" * 80)
    },
    "an index without metadata": (
        index_of_shards({}, text='{"weight_map": {"a": "one.safetensors"}}'),
        "is not an index of shards .KeyError..metadata",
    ),
    "metadata that are a list": (
        index_of_shards({}, text='{"metadata": [], "weight_map": {"a": "one.safetensors"}}'),
        "is not an index of shards .TypeError..metadata is no object",
    ),
    "the fp16 variant": (renamed("vae", ".safetensors", ".fp16.safetensors"), "there is only the variant 'fp16'"),
    "an adapter": (
        renamed("transformer", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors"),
        "in its place is adapter_model.safetensors: a LoRA or PEFT adapter",
    ),
    "shards without index": (
        renamed("transformer", ".safetensors", "-00001-of-00002.safetensors"),
        "Shards need their index file",
    ),
    "a pointer": (replaced(EXPERT, POINTER), "model.safetensors is a pointer file of Git LFS"),
    "a truncated file": (truncated(EXPERT), "and its header describes .* truncated or damaged"),
    "an empty file": (replaced(EXPERT, b""), "is no safetensors file, or is truncated in its header"),
    "a download that goes on": (
        replaced(f"{EXPERT}.aria2", b"\0\1"),
        "model.safetensors is not whole: diffusion_pytorch_model.safetensors.aria2 beside it",
    ),
    "a header that is a list": (replaced(EXPERT, b"\x02" + b"\x00" * 7 + b"[]"), "damaged header .it is a JSON list"),
    "a header without offsets": (
        replaced(EXPERT, b"\x08" + b"\x00" * 7 + b'{"a":{}}'),
        "damaged header .a: KeyError",
    ),
    "an index of a missing shard": (index_of_shards({"a": "x.safetensors"}), "vae/x.safetensors is missing"),
    "an index of elsewhere": (index_of_shards({"a": "../x.safetensors"}), "names the file name '../x.safetensors'"),
    "an index of nothing": (index_of_shards({}), "names no file at all"),
    "shards in a list": (index_of_shards([]), "is not an index of shards"),
    "a tensor twice": (
        index_of_shards(0, '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'),
        "a stands there twice",
    ),
    "a folder in place of a file": (
        lambda folder: ((folder / EXPERT).unlink(), (folder / EXPERT).mkdir()),
        "model.safetensors is no file",
    ),
    "a dead link": (
        lambda folder: ((folder / EXPERT).unlink(), (folder / EXPERT).symlink_to("blob")),
        "is a link to blob, which is not there",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights_are_refused_with_one_line(name: str, folder: Path) -> None:
    damage, message = WEIGHTS[name]
    check_refused(damage, message, folder)


def test_links_are_read_but_not_referred_to(folder: Path, tmp_path: Path) -> None:
    """As in the hub's cache. A graph that refers to weights beside it cannot follow them."""
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        path.symlink_to(path.rename(tmp_path / f"blob-{number}"))
    Checkpoint.open(folder).check()
    with pytest.raises(CheckpointError, match=r"is a symbolic link .* --local-dir FOLDER` or `cp -rL"):
        Checkpoint.open(folder).check(external_weights=True)


def test_a_file_and_an_index_at_once_are_refused(folder: Path) -> None:
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    path.with_name(f"{path.name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="has both .* and an index of shards"):
        Checkpoint.open(folder).check()


def test_full_precision_files_beside_pickled_ones_are_taken(folder: Path) -> None:
    """As the hub has them for other models; the libraries take the same."""
    (folder / "text_encoder/pytorch_model.bin").write_bytes(b"x")
    (folder / "vae/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x")
    Checkpoint.open(folder).check()


def test_every_component_is_checked(folder: Path) -> None:
    for component in COMPONENTS:
        (path,) = (folder / component).glob("*.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(CheckpointError, match=f"{component}/.*truncated or damaged"):
            Checkpoint.open(folder).check()
        path.write_bytes(content)
