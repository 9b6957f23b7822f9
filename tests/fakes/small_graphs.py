"""ONNX graphs of a few nodes, to compile and to break."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, HEAD_DIM = 4, 64


def attention_graph(path: Path, *, nodes: str = "Attention", dtype: int = TensorProto.FLOAT16) -> Path:
    """Self- and cross-attention: tokens (batch, tokens, 256), text (batch, text_length, 256); as one Attention node
    each, or with `nodes="MatMul"` taken apart.
    """
    width = HEADS * HEAD_DIM
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    random = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(np.array([0, 0, HEADS, HEAD_DIM]), "split_heads"),
        numpy_helper.from_array(np.array([0, 0, width]), "join_heads"),
    ]
    graph = []
    for block, context in (("self", "tokens"), ("cross", "text")):
        states = "tokens" if block == "self" else "after_self"
        for role, source in (("q", states), ("k", context), ("v", context)):
            name = f"{block}_{role}"
            weight = (random.standard_normal((width, width)) / 16).astype(numpy_type)
            initializers.append(numpy_helper.from_array(weight, f"{name}_weight"))
            graph += [
                helper.make_node("MatMul", [source, f"{name}_weight"], [f"{name}_flat"]),
                helper.make_node("Reshape", [f"{name}_flat", "split_heads"], [f"{name}_split"]),
                helper.make_node("Transpose", [f"{name}_split"], [name], perm=[0, 2, 1, 3]),
            ]
        graph += _attention(f"{block}_q", f"{block}_k", f"{block}_v", block, nodes)
        graph += [
            helper.make_node("Transpose", [block], [f"{block}_back"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"{block}_back", "join_heads"], [f"{block}_joined"]),
            helper.make_node("Add", [states, f"{block}_joined"], [f"after_{block}"]),
        ]
    inputs = [
        helper.make_tensor_value_info(name, dtype, ["batch", axis, width])
        for name, axis in (("tokens", "tokens"), ("text", "text_length"))
    ]
    outputs = [helper.make_tensor_value_info("after_cross", dtype, None)]
    return _saved(path, graph, inputs, outputs, initializers)


def _attention(query: str, key: str, value: str, out: str, nodes: str) -> list[onnx.NodeProto]:
    if nodes == "Attention":
        return [helper.make_node("Attention", [query, key, value], [out], name=out)]
    return [
        helper.make_node("Transpose", [key], [f"{out}_kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", [query, f"{out}_kt"], [f"{out}_scores"]),
        helper.make_node("Softmax", [f"{out}_scores"], [f"{out}_weights"], axis=-1),
        helper.make_node("MatMul", [f"{out}_weights", value], [out]),
    ]


def outer_product_graph(path: Path) -> Path:
    """x (batch, height, 1) times its transpose: height x height numbers inside, one out."""
    graph = [
        helper.make_node("Transpose", ["x"], ["row"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "row"], ["product"], name="outer"),
        helper.make_node("ReduceMax", ["product"], ["y"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "height", 1])]
    return _saved(path, graph, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [])


def joined_rows_graph(path: Path) -> Path:
    """x (batch, height, 8) enlarged four times and joined with a cache (batch, 4*height, 8), as the VAE does."""
    repeats = numpy_helper.from_array(np.array([1.0, 4.0, 1.0], np.float32), "scales")
    graph = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Concat", ["cache", "large"], ["y"], axis=2),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "height", 8]),
        helper.make_tensor_value_info("cache", TensorProto.FLOAT, ["batch", "4*height", 8]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "4*height", 16])]
    return _saved(path, graph, inputs, outputs, [repeats])


def unsupported_graph(path: Path) -> Path:
    """A determinant, which TensorRT has no layer for."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return _saved(path, [helper.make_node("Det", ["x"], ["y"], name="determinant")], inputs, outputs, [])


def _saved(path: Path, nodes: list, inputs: list, outputs: list, initializers: list) -> Path:  # type: ignore[type-arg]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
