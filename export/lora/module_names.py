"""Module names of an expert as LoRAs spell them: diffusers' names, Wan's original names, kohya's with underscores."""

from collections.abc import Iterable

# (diffusers' part of a name, Wan's original part), in the order of replacement
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
    (".norm2", ".norm3"),  # the only norm of a block that has weights; diffusers numbers the three norms differently
    (".scale_shift_table", ".modulation"),
)
_OF_THE_HEAD = "scale_shift_table"  # outside of the blocks


def original_name(module: str) -> str:
    """Return the name of a diffusers module in Wan's original code."""
    if module == _OF_THE_HEAD:
        return "head.modulation"
    for ours, theirs in _ORIGINAL:
        module = module.replace(ours, theirs)
    return module


def module_of(tensor: str) -> str:
    """Return the module of a tensor. A parameter that is neither weight nor bias counts as a module."""
    return tensor.removesuffix(".weight").removesuffix(".bias")


def spellings(tensors: Iterable[str]) -> dict[str, str]:
    """Return diffusers' module name by spelling, for every module of an expert with these tensors."""
    modules = sorted({module_of(tensor) for tensor in tensors})
    dotted = {spelling: module for module in modules for spelling in (module, original_name(module))}
    flat = {spelling.replace(".", "_"): module for spelling, module in dotted.items()}
    return {**flat, **dotted}
