"""Names of axes: the export and the server read the same ones alike."""

import onnx
import pytest
from onnx import TensorProto, helper

from export.graphs.axes import free_axes, input_shapes
from wan_t2v.engines.graph_shapes import Dim


def graph_with(axis: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("latents", TensorProto.FLOAT, [1, axis])
    return helper.make_model(helper.make_graph([], "graph", [value], []))


@pytest.mark.parametrize("axis", ["latent_height", "4*latent_height", "4*(latent_height)", "(latent_height)"])
def test_an_axis_is_a_name_or_a_multiple_of_one(axis: str) -> None:
    factor = 4 if "4" in axis else 1
    assert Dim.parse(axis) == Dim(factor, "latent_height")
    assert free_axes(graph_with(axis)) == {"latent_height"}
    assert input_shapes(graph_with(axis), {"latent_height": 3}) == {"latents": (1, 3 * factor)}


@pytest.mark.parametrize("axis", ["ceil(height/2)", "4*(height", "height)", "height + 1", "4*"])
def test_anything_else_is_no_axis(axis: str) -> None:
    assert Dim.parse(axis) is None
    with pytest.raises(ValueError, match="is not a name or a multiple of one"):
        free_axes(graph_with(axis))
