"""Fix dynamic axes of an ONNX graph to the sizes of a plan.

A network is parsed for the sizes at which it runs. TensorRT then need not support others, and every tensor has a static
shape that can be checked. It also matters for the VAE, which concatenates cache inputs of `4*latent_height` rows with
activations that were upsampled twice: with dynamic axes, TensorRT may be unable to prove that the heights are equal.
"""

from collections.abc import Mapping

import onnx

from wan_t2v.engines.graph_shapes import Dim
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

Shape = tuple[int, ...]


def input_shapes(model: onnx.ModelProto, axes: Mapping[str, int]) -> dict[str, Shape]:
    """Return every input's shape for these sizes of the dynamic axes. Raises KeyError for an axis without a size."""
    return {
        value.name: tuple(_size(dim, axes) for dim in value.type.tensor_type.shape.dim) for value in model.graph.input
    }


def free_axes(model: onnx.ModelProto) -> set[str]:
    """Return the names of the dynamic axes of the graph's inputs."""
    dims = [dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    return {_parse_axis(name)[1] for name in dims if name}


def with_fixed_axes(model: onnx.ModelProto, axes: Mapping[str, int]) -> onnx.ModelProto:
    """Copy `model` with these axes of its inputs fixed. Weights in other files stay there.

    Shapes of outputs and inner values depend on the dynamic axes and are removed. Readers of the graph infer them.
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
    """Parse an axis into factor and name, as the server does. Raises ValueError for anything else."""
    dim = Dim.parse(dim_param)
    if dim is None or dim.name is None:
        raise ValueError(f"axis {dim_param!r} of the graph is not a name or a multiple of one")
    return dim.factor, dim.name


def axes_of(graph: str, size: VideoShape | None, facts: ModelFacts) -> dict[str, int]:
    """Return the sizes of a graph's dynamic axes, without the batch. The VAE decodes one latent frame per call.

    `size` is None for the text encoder, which does not depend on it.
    """
    if size is None:
        return {"text_length": facts.text_length}
    latents = facts.grid.latent_shape(size)
    pixels = {"latent_height": latents.height, "latent_width": latents.width}
    if graph.startswith("vae_"):
        return {"latent_frames": 1, **pixels}
    return {"latent_frames": latents.frames, **pixels, "text_length": facts.text_length}
