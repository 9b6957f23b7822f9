"""Names of modules in every spelling: each means one module."""

from export.lora.module_names import module_of, original_name, spellings
from tests.unit.export.lora.lora_files import SHAPES


def test_every_spelling_means_one_module() -> None:
    modules = {module_of(tensor) for tensor in SHAPES}
    originals = {original_name(module) for module in modules}
    assert len(originals) == len(modules)
    table = spellings(SHAPES)
    for spelled in (str, original_name, lambda m: m.replace(".", "_"), lambda m: original_name(m).replace(".", "_")):
        assert {table[spelled(module)] for module in modules} == modules


def test_the_names_are_those_of_wans_original_code() -> None:
    assert original_name("blocks.3.attn2.norm_q") == "blocks.3.cross_attn.norm_q"
    assert original_name("blocks.3.norm2") == "blocks.3.norm3"
    assert original_name("blocks.3.scale_shift_table") == "blocks.3.modulation"
    assert original_name("scale_shift_table") == "head.modulation"
    assert original_name("condition_embedder.text_embedder.linear_2") == "text_embedding.2"
    assert original_name("proj_out") == "head.head"
    assert original_name("patch_embedding") == "patch_embedding"
