"""Fix free axes of an ONNX graph to the sizes of a plan.

A network is parsed for the sizes that it will run at, so TensorRT need not allow for others, and every tensor has a
shape that can be checked. Where caches come in as inputs (`4*latent_height` rows) and are joined with activations that
were enlarged twice, TensorRT cannot be counted on to prove the two heights equal while they are free.
"""

import re
from collections.abc import Mapping

import onnx

from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

Shape = tuple[int, ...]


def input_shapes(model: onnx.ModelProto, axes: Mapping[str, int]) -> dict[str, Shape]:
    """Shape of every input for these sizes of the free axes. Raises KeyError for an axis that has none."""
    return {
        value.name: tuple(_size(dim, axes) for dim in value.type.tensor_type.shape.dim) for value in model.graph.input
    }


def free_axes(model: onnx.ModelProto) -> set[str]:
    """Names of the axes of its inputs that can still change."""
    dims = [dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    return {_parse_axis(name)[1] for name in dims if name}


def with_fixed_axes(model: onnx.ModelProto, axes: Mapping[str, int]) -> onnx.ModelProto:
    """A copy of `model` whose inputs have these axes fixed; weights in other files stay where they are.

    Shapes noted inside the graph spoke of the free axes and are dropped; whoever reads the graph infers them again.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and _parse_axis(dim.dim_param)[1] in axes:
                dim.dim_value = _size(dim, axes)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    return fixed


def _size(dim: onnx.TensorShapeProto.Dimension, axes: Mapping[str, int]) -> int:
    if not dim.dim_param:
        return int(dim.dim_value)
    factor, name = _parse_axis(dim.dim_param)
    return factor * axes[name]


def _parse_axis(dim_param: str) -> tuple[int, str]:
    """`latent_height` or `4*latent_height`, as the exporter writes them."""
    axis = re.fullmatch(r"(?:(\d+)\*)?\(*(\w+)\)*", dim_param)
    if axis is None:
        raise ValueError(f"axis {dim_param!r} of the graph is not a name or a multiple of one")
    return int(axis[1] or 1), axis[2]


def axes_of(graph: str, size: VideoShape | None, facts: ModelFacts) -> dict[str, int]:
    """Sizes of a graph's free axes but the batch; the VAE gets one latent frame a call."""
    if size is None:
        return {"text_length": facts.text_length}
    latents = facts.grid.latent_shape(size)
    pixels = {"latent_height": latents.height, "latent_width": latents.width}
    if graph.startswith("vae_"):
        return {"latent_frames": 1, **pixels}
    return {"latent_frames": latents.frames, **pixels, "text_length": facts.text_length}
