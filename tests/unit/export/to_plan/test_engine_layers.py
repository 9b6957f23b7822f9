"""What TensorRT's listing of built layers is read for: lines as TensorRT-RTX 1.7.1 wrote them, shortened."""

import onnx
import pytest
from onnx import TensorProto, helper

from export.to_plan.engine_layers import check_fp8_attention, check_linears, linears_of, read_layers
from export.to_plan.network_check import NetworkError


def tensor(shape: str, type_: str) -> str:
    return (
        f"{{ Name: t, Dimensions: [{shape}], Strides: [1], StrideOrder: [0], Datatype: {type_}, Format: (Linear) x }}"
    )


def line(name: str, inputs: list[str], constants: list[str], nodes: list[str]) -> str:
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: gemm, Inputs: [ {', '.join(inputs)} ], Constants: [ {', '.join(constants)} ], "
        f"Outputs: [ {tensor('1,4', 'BFloat16')} ], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: {metadata}"
    )


ALPHA = tensor("1", "Float")
JOINED = line("a+b", [tensor("1,8,16", "FP8")], [tensor("1,16,64", "FP8"), ALPHA], ["node_a", "node_b", "node_dq"])
WAIT = "Name: w, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , EventId: 7, Metadata: "


def graph(*, stored: int = TensorProto.FLOAT8E4M3FN, attention: bool = False) -> onnx.ModelProto:
    """Two products of one input with weights in FP8, one behind a Cast and a Transpose, one with no weight."""
    nodes = [
        helper.make_node("DequantizeLinear", ["wa", "scale"], ["da"]),
        helper.make_node("MatMul", ["x", "da"], ["a"], name="node_a"),
        helper.make_node("DequantizeLinear", ["wb", "scale"], ["db"]),
        helper.make_node("MatMul", ["x", "db"], ["b"], name="node_b"),
        helper.make_node("Cast", ["wc.stored"], ["wc"], to=TensorProto.BFLOAT16),
        helper.make_node("Transpose", ["wc"], ["wct"]),
        helper.make_node("MatMul", ["x", "wct"], ["c"], name="node_c"),
        helper.make_node("MatMul", ["a", "b"], ["scores"], name="node_scores"),
    ]
    if attention:
        nodes.append(helper.make_node("TRT_QuantizedAttention", ["a", "b", "c"], ["y"], name="node_mha", domain="trt"))
    weights = [
        helper.make_tensor(name, type_, [16, 32], bytes(512 * size), raw=True)
        for name, type_, size in (("wa", stored, 1), ("wb", stored, 1), ("wc.stored", TensorProto.FLOAT, 4))
    ]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], weights))


def test_a_linear_layer_is_known_by_its_weight_and_the_type_that_it_is_to_run_in() -> None:
    found = {linear.node: (linear.weight, linear.elements, linear.type) for linear in linears_of(graph())}
    assert found == {
        "node_a": ("wa", 512, "FP8"),
        "node_b": ("wb", 512, "FP8"),
        "node_c": ("wc.stored", 512, "BFloat16"),
    }


def check(*lines: str) -> None:
    check_linears(linears_of(graph()), read_layers("\n".join([WAIT, *lines])))


def test_layers_that_run_as_the_graph_says_pass_joined_or_not() -> None:
    half = line("norm+c", [tensor("1,8,16", "Float")], [tensor("16,32", "BFloat16")], ["node_norm", "node_c"])
    elsewhere = line("fused", [tensor("1,8", "Float")], [tensor("1,8", "Float")], ["node_a", "node_c"])
    check(JOINED, half, elsewhere)


@pytest.mark.parametrize(
    ("given", "weight", "told"),
    [
        ("BFloat16", "BFloat16", "BFloat16"),
        ("BFloat16", "FP8", r"\['BFloat16'\] by FP8"),
        ("BFloat16", "Int8", r"\['BFloat16'\] by Int8"),
        ("FP8", "BFloat16", "BFloat16"),
        ("Half", "Half", "Half"),
    ],
)
def test_a_layer_that_runs_in_another_type_is_refused(given: str, weight: str, told: str) -> None:
    wrong = line("a+b", [tensor("1,8,16", given)], [tensor("1,16,64", weight)], ["node_a", "node_b"])
    with pytest.raises(NetworkError, match=rf"node_a \(wa\) is to run in FP8, TensorRT built: {told}$"):
        check(wrong)


def test_a_layer_that_is_not_listed_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"node_c \(wc.stored\) .* TensorRT built: no layer that reads it"):
        check(JOINED)
    with pytest.raises(NetworkError, match="did not list the layers"):
        read_layers("")


def test_an_attention_in_fp8_is_one_layer_that_reads_all_three_in_fp8() -> None:
    model = graph(attention=True)
    three = [tensor("8,4,16", "FP8")] * 3
    fused = line("_gemm_mha_v2", three, [], ["node_mha"])
    beside = line("__myl_CastMulCast", [tensor("8,4", "BFloat16")], [], ["node_mha", "node_q"])
    assert check_fp8_attention(model, read_layers("\n".join([beside, fused]))) == 1
    assert check_fp8_attention(graph(), read_layers(JOINED)) == 0
    half = line("_gemm_mha_v2", [*three[:2], tensor("8,4,16", "BFloat16")], [], ["node_mha"])
    for listing in (half, beside, f"{fused}\n{fused}"):
        with pytest.raises(NetworkError, match="node_mha is to be one layer that reads query, key and value in FP8"):
            check_fp8_attention(model, read_layers(listing))
