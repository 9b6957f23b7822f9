"""Names of tensors taken apart: prefix, module, role."""

import pytest

from export.lora.key_formats import LoraKey, Role, partner_of, read_key
from export.lora.module_names import spellings
from tests.unit.export.lora.lora_files import SHAPES

TABLE = spellings(SHAPES)


@pytest.mark.parametrize(
    "key",
    [
        "transformer.blocks.1.attn1.to_out.0.lora_A.weight",
        "transformer_2.blocks.1.attn1.to_out.0.lora_A.weight",
        "transformer.blocks.1.attn1.to_out.0.lora.down.weight",
        "base_model.model.blocks.1.attn1.to_out.0.lora_A.default.weight",
        "base_model.model.diffusion_model.blocks.1.self_attn.o.lora_A.weight",
        "blocks.1.attn1.to_out.0.lora_A.weight",
        "diffusion_model.blocks.1.self_attn.o.lora_down.weight",
        "model.diffusion_model.blocks.1.self_attn.o.lora_A.weight",
        "blocks.1.self_attn.o.lora_down.weight",
        "lora_unet_blocks_1_self_attn_o.lora_down.weight",
        "lora_unet__blocks_1_self_attn_o.lora_down.weight",
        "pipe.dit.blocks.1.self_attn.o.lora_A.default.weight",
    ],
)
def test_every_published_form_is_understood(key: str) -> None:
    assert read_key(key, TABLE) == LoraKey("blocks.1.attn1.to_out.0", Role.DOWN)
    other = read_key(partner_of(key), TABLE)
    assert other == LoraKey("blocks.1.attn1.to_out.0", Role.UP)


def test_a_modulation_table_has_two_names_of_its_difference() -> None:
    table = LoraKey("blocks.1.scale_shift_table", Role.DIFF)
    assert read_key("diffusion_model.blocks.1.modulation.diff", TABLE) == table
    assert read_key("diffusion_model.blocks.1.diff_m", TABLE) == table


@pytest.mark.parametrize(
    "key",
    [
        "blocks.1.self_attn.q.diff_m",
        "blocks.1.self_attn.o.weight",
        "blocks.1.attn1.lora_A.weight",
        "text_encoder.blocks.1.attn1.to_q.alpha",
        "x",
    ],
)
def test_other_names_are_not(key: str) -> None:
    assert read_key(key, TABLE) is None
