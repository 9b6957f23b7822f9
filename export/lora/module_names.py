"""Names of an expert's modules in the spellings of LoRAs: diffusers', Wan's original ones, and kohya's flat ones."""

from collections.abc import Iterable

# parts of diffusers' names, in the order in which they are replaced, and what Wan's original code calls them
_ORIGINAL = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".ffn.net.0.proj", ".ffn.0"),
    (".ffn.net.2", ".ffn.2"),
    (".norm2", ".norm3"),  # the one norm of a block with weights; diffusers counts the three otherwise
    (".scale_shift_table", ".modulation"),
)
_OF_THE_HEAD = "scale_shift_table"  # outside of the blocks


def original_name(module: str) -> str:
    """What Wan's original code calls a module of diffusers' expert."""
    if module == _OF_THE_HEAD:
        return "head.modulation"
    for ours, theirs in _ORIGINAL:
        module = module.replace(ours, theirs)
    return module


def module_of(tensor: str) -> str:
    """The module that a tensor belongs to; a parameter that is no weight or bias counts as one itself."""
    return tensor.removesuffix(".weight").removesuffix(".bias")


def spellings(tensors: Iterable[str]) -> dict[str, str]:
    """Every spelling of every module of an expert with these tensors, and diffusers' name of it."""
    modules = sorted({module_of(tensor) for tensor in tensors})
    dotted = {spelling: module for module in modules for spelling in (module, original_name(module))}
    flat = {spelling.replace(".", "_"): module for spelling, module in dotted.items()}
    return {**flat, **dotted}
