"""What a LoRA changes by its names and shapes, and every complaint about them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.checkpoint.weights.safetensors_index import stored_tensors
from export.lora.changes import Offset, Product, changes_of
from export.lora.lora_file import LoraError, LoraFile
from tests.unit.export.lora.lora_files import BLOCKS, MINI, SHAPES, modules, of_diffusers, of_kohya, of_lightx2v, saved

Tensors = dict[str, Tensor]
STORED = stored_tensors(MINI, "transformer", links_allowed=True)


def changes(folder: Path, tensors: Tensors, **options: bool) -> dict[str, tuple[Product | Offset, ...]]:
    return changes_of(LoraFile.open(saved(folder / "lora.safetensors", tensors)), "transformer", STORED, **options)


@pytest.mark.parametrize("write", [of_diffusers, of_lightx2v, of_kohya])
def test_every_layer_of_every_block_is_found_in_each_format(write: Callable[[], Tensors], tmp_path: Path) -> None:
    assert {f"{name}.weight" for name in modules()} <= changes(tmp_path, write()).keys()


def test_norms_biases_and_modulation_are_merged_by_the_stated_rule(tmp_path: Path) -> None:
    """diffusers drops the norms' without a word."""
    shapes = {
        "diffusion_model.blocks.{}.norm3.diff": "blocks.{}.norm2.weight",
        "diffusion_model.blocks.{}.norm3.diff_b": "blocks.{}.norm2.bias",
        "diffusion_model.blocks.{}.self_attn.norm_q.diff": "blocks.{}.attn1.norm_q.weight",
        "diffusion_model.blocks.{}.cross_attn.norm_k.diff": "blocks.{}.attn2.norm_k.weight",
        "diffusion_model.blocks.{}.diff_m": "blocks.{}.scale_shift_table",
    }
    targets = {key.format(n): target.format(n) for key, target in shapes.items() for n in range(BLOCKS)}
    targets |= {
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
        "diffusion_model.head.diff_m": "scale_shift_table",
        "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    }
    read = changes(tmp_path, {key: torch.ones(SHAPES[target]) for key, target in targets.items()})
    assert read.keys() == set(targets.values())
    assert all(isinstance(change, Offset) and change.factor == 1.0 for (change,) in read.values())


def test_alpha_scales_products_and_the_bias_of_a_factor_and_nothing_else(tmp_path: Path) -> None:
    name = "diffusion_model.blocks.0.self_attn.q"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(4, 192),
        f"{name}.lora_B.weight": torch.ones(192, 4),
        f"{name}.lora_B.bias": torch.ones(192),
        f"{name}.alpha": torch.tensor([8.0]),
        f"{name}.diff": torch.ones(192, 192),
        f"{name}.diff_b": torch.ones(192),
    }
    read = changes(tmp_path, tensors, some_blocks=True)
    for target, kind in (("weight", Product), ("bias", Offset)):
        first, second = sorted(read[f"blocks.0.attn1.to_q.{target}"], key=lambda change: change.factor)
        assert (first.factor, second.factor) == (1.0, 2.0)
        assert isinstance(second, kind)


def test_a_lora_of_a_smaller_wan_is_told_so_and_not_that_blocks_are_missing(tmp_path: Path) -> None:
    tensors = {}
    for module in ("self_attn.q", "cross_attn.q"):
        for block in range(BLOCKS - 1):
            name = f"diffusion_model.blocks.{block}.{module}"
            tensors |= {f"{name}.lora_A.weight": torch.ones(4, 96), f"{name}.lora_B.weight": torch.ones(96, 4)}
    with pytest.raises(
        LoraError, match=r"missing: .* 6 of another shape: .* Take a LoRA that was trained for this"
    ) as e:
        changes(tmp_path, tensors)
    assert "--some-blocks" not in str(e.value)


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def with_(name: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(shape)})


ONE = "diffusion_model.blocks.1.self_attn.q"
FAULTS: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "another block": (
        with_("diffusion_model.blocks.4.ffn.0.lora_up.weight", 768, 4),
        r"has 5 blocks and transformer has 4: surplus are diffusion_model.blocks.4.ffn.0.lora_up.weight. It was trained",
    ),
    "half a product": (without(f"{ONE}.lora_up.weight"), rf"1 missing: {ONE}.lora_up.weight. It has tensors of 4 blocks"),
    "half of the head": (
        with_("diffusion_model.head.head.lora_down.weight", 4, 192),
        r"1 missing: diffusion_model.head.head.lora_up.weight .beside diffusion_model.head.head.lora_down.weight",
    ),
    "a bias left out": (without(f"{ONE}.diff_b"), rf"1 missing: {ONE}.diff_b.*LORA_OPTIONS=--some-blocks"),
    "an unknown module": (
        with_("diffusion_model.blocks.1.cross_attn.k_img.lora_up.weight", 192, 4),
        "1 surplus: diffusion_model.blocks.1.cross_attn.k_img.lora_up.weight. Accepted: lora_A/lora_B or",
    ),
    "an unknown role": (with_(f"{ONE}.dora_scale", 192, 1), rf"1 surplus: {ONE}.dora_scale. Accepted"),
    "a text encoder": (with_("lora_te_layers_0_q.lora_up.weight", 4, 4), "1 surplus: lora_te_layers_0_q.lora_up.weight"),
    "another width": (
        with_(f"{ONE}.lora_down.weight", 4, 1536),
        rf"1 of another shape: {ONE}.lora_down.weight is \(4, 1536\), expected \(rank, 192\)",
    ),
    "two ranks": (with_(f"{ONE}.lora_up.weight", 192, 8), rf"{ONE}.lora_up.weight is \(192, 8\), expected \(192, 4\)"),
    "another bias": (with_(f"{ONE}.diff_b", 1), rf"{ONE}.diff_b is \(1,\), expected \(192,\)"),
    "an alpha of many": (with_(f"{ONE}.alpha", 2), rf"{ONE}.alpha is \(2,\), expected one number"),
    "two spellings": (
        with_("transformer.blocks.1.attn1.to_q.lora_A.weight", 4, 192),
        rf"1 there twice: {ONE}.lora_down.weight and transformer.blocks.1.attn1.to_q.lora_A.weight",
    ),
    "an alpha alone": (
        with_("diffusion_model.head.head.alpha"),
        r"1 surplus: diffusion_model.head.head.alpha .of no product",
    ),
    "a product for a table": (
        lambda tensors: [  # type: ignore[return-value]
            with_(f"diffusion_model.head.modulation.lora_{half}.weight", 2, 2)(tensors) for half in ("up", "down")
        ],
        "2 surplus: diffusion_model.head.modulation.lora_up.weight, diffusion_model.head.modulation.lora_down.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named(fault: str, tmp_path: Path) -> None:
    damage, told = FAULTS[fault]
    tensors = of_lightx2v()
    damage(tensors)
    # the header of a file is sorted, and so are these complaints
    with pytest.raises(LoraError, match=told):
        changes(tmp_path, tensors)


def test_a_lora_of_fewer_blocks_is_another_models_unless_it_is_meant(tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in of_kohya().items() if "_blocks_3_" not in name}
    with pytest.raises(
        LoraError, match="30 missing: .*_blocks_3_.* It has tensors of 3 blocks, transformer has 4 blocks"
    ):
        changes(tmp_path, fewer)
    assert len(changes(tmp_path, fewer, some_blocks=True)) == 3 * len(modules()) // 4


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_that_means_nothing_is_refused(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="alpha is .*, accepted: a finite number other than 0"):
        changes(tmp_path, {**of_lightx2v(), f"{ONE}.alpha": torch.tensor(alpha)})
