"""FP8 by ModelOpt's ranges: what is quantised and how it is stored, that the graph computes it, and that missing ranges
are told early.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from diffusers import WanTransformer3DModel

from export.__main__ import main
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.graphs.fp8_layers import needed_ranges, put_in_fp8, through_fp8
from export.graphs.precision import LINEARS_OF_A_BLOCK, attention_is_fp8, blocks_in_fp8
from export.graphs.quantised_experts import quantise
from export.quantisation.calibrate import CalibrationSettings, calibrate
from export.quantisation.ranges import Fp8Ranges, read_ranges
from export.to_onnx.exporter import onnx_from_module
from tests.unit.export.graphs.tiny_expert import BLOCKS, arrays, call, expert, relative
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine


def ranges_of(module: WanTransformer3DModel) -> dict[str, float]:
    """By hooks of our own: what ModelOpt must find too."""
    found: dict[str, float] = {}
    hooks = []
    for name in needed_ranges(blocks_in_fp8(BLOCKS)):
        place, _, kind = name.rpartition(".")
        if kind == "weight":
            found[name] = float(module.get_submodule(place).weight.abs().max())
        elif kind == "input":

            def hook(_: Any, inputs: tuple[torch.Tensor], name: str = name) -> None:
                found[name] = float(inputs[0].abs().max())

            hooks.append(module.get_submodule(place).register_forward_pre_hook(hook))
        else:
            found[name] = 4.0
    module(*call(module))
    for handle in hooks:
        handle.remove()
    return found


def test_the_outer_blocks_stay_out_of_fp8() -> None:
    assert blocks_in_fp8(40) == range(3, 37)
    assert blocks_in_fp8(4) == range(1, 3)
    assert len(blocks_in_fp8(2)) == 0


def test_e4m3_has_four_bits_of_fraction_and_ends_at_448() -> None:
    x = torch.tensor([0.0, 1.0, 1.06, 1.07, -448.0, 1000.0, -1e9])
    assert through_fp8(x, 1.0).tolist() == [0.0, 1.0, 1.0, 1.125, -448.0, 448.0, -448.0]
    assert through_fp8(x, 2.0)[5] == 896.0


@pytest.mark.parametrize(
    ("precision", "dtype", "rounded"),
    [
        pytest.param("fp8-fp32", torch.float32, 7, marks=pytest.mark.nightly),  # a part of the next one
        pytest.param("fp8", torch.bfloat16, 7, marks=pytest.mark.nightly),
        ("fp8-attention-fp32", torch.float32, 13),
        pytest.param("fp8-attention", torch.bfloat16, 13, marks=pytest.mark.nightly),
    ],
)
def test_the_graph_holds_weights_in_fp8_and_computes_what_torch_computes(
    precision: str, dtype: torch.dtype, rounded: int, tiny: Path, tmp_path: Path
) -> None:
    module = expert(tiny, dtype)
    inputs = call(module)
    ranges = ranges_of(expert(tiny))
    plain = expert(tiny)(*inputs, return_dict=False)[0].numpy()
    quantise(module, precision, ranges)
    attention = attention_is_fp8(precision)
    path = onnx_from_module(module, "high_noise_expert", Checkpoint.open(tiny).facts, tmp_path / "m.onnx")
    model = onnx.load(path)
    counts = check_storage(model)
    assert counts["QuantizeLinear"] == rounded
    assert counts["DequantizeLinear"] == rounded + LINEARS_OF_A_BLOCK
    assert counts["TRT_QuantizedAttention"] == (2 if attention else 0)
    if attention:
        check_attention(model)
    if dtype == torch.float32:
        quantised = module(*inputs, return_dict=False)[0].numpy()
        found = OnnxRuntimeEngine(path)(arrays(*inputs))["velocity"]
        assert relative(found, quantised) < 2e-3  # what lies between two FP8 numbers may fall to either side
        assert 5e-3 < relative(plain, quantised) < 0.2


def check_attention(model: onnx.ModelProto) -> None:
    """Query and key are scaled before they are rounded, and nothing is computed after."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    attentions = [node for node in model.graph.node if node.op_type == "TRT_QuantizedAttention"]
    assert len(attentions) == 2
    for node in attentions:
        for name, scaled in zip(node.input[:3], (True, True, False), strict=True):
            rounded = makers[makers[name].input[0]]
            assert (makers[name].op_type, rounded.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert (makers[rounded.input[0]].op_type == "Mul") == scaled
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert attributes == {"scale": 1.0, "normalization_quantize_to_type": onnx.TensorProto.FLOAT8E4M3FN}
        assert node.input[3] == ""
        assert float(onnx.numpy_helper.to_array(constants[node.input[4]])) == pytest.approx(1 / 448, rel=4e-3)


def check_storage(model: onnx.ModelProto) -> Counter[str]:
    """Ten weights in FP8, each read by one DequantizeLinear and that by one MatMul, with nothing between."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stored = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT8E4M3FN and i.dims]
    assert len(stored) == LINEARS_OF_A_BLOCK
    for weight in stored:
        (dequantize,) = readers[weight.name]
        (product,) = readers[dequantize.output[0]]
        assert (dequantize.op_type, product.op_type) == ("DequantizeLinear", "MatMul")
        assert product.input[1] == dequantize.output[0]
    return Counter(node.op_type for node in model.graph.node)


def test_it_is_what_modelopt_simulates(tiny: Path) -> None:
    mtq = pytest.importorskip("modelopt.torch.quantization")
    ours, theirs = expert(tiny), expert(tiny)
    inputs = call(ours)
    put_in_fp8(ours, ranges_of(ours), blocks=blocks_in_fp8(BLOCKS))
    kinds = ("weight_quantizer", "input_quantizer")
    rules = [
        {"quantizer_name": f"*blocks.{block}.*{kind}", "cfg": {"num_bits": (4, 3), "axis": None}}
        for block in blocks_in_fp8(BLOCKS)
        for kind in kinds
    ]
    config = {"quant_cfg": [{"quantizer_name": "*", "enable": False}, *rules], "algorithm": "max"}
    theirs = mtq.quantize(theirs, config, lambda module: module(*inputs))
    expected = theirs(*inputs, return_dict=False)[0].numpy()
    assert relative(ours(*inputs, return_dict=False)[0].numpy(), expected) < 2e-3


def test_calibration_watches_both_experts_in_the_real_pipeline(checkpoint: Path) -> None:
    settings = CalibrationSettings(prompts=("a red circle slides left on a white background",), num_inference_steps=4)
    found = calibrate(Checkpoint.open(checkpoint), settings)
    names = needed_ranges(range(4))  # INT8 reads those of the outer blocks too
    for component in ("transformer", "transformer_2"):
        assert sorted(found.ranges[component]) == sorted(names)
        assert all(0.0 < value < 1e4 for value in found.ranges[component].values())
        assert found.checkpoint_hashes[component] == Checkpoint.open(checkpoint).hash_of(component).sha256
    assert found.ranges["transformer"] != found.ranges["transformer_2"]
    shared = {found.ranges["transformer"][f"blocks.1.attn1.{name}.input"] for name in ("to_q", "to_k", "to_v")}
    assert len(shared) == 1, "query, key and value read one tensor"


def test_ranges_that_are_missing_of_other_weights_or_incomplete_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    with pytest.raises(CheckpointError, match=r"ranges.json is missing. Run `python -m export calibrate"):
        read_ranges(path, "transformer", names=["a"], checkpoint_hash="1")
    Fp8Ranges({"transformer": "1"}, {"transformer": {"a": 1.0, "b": 0.0}}, {}).write(path)
    assert read_ranges(path, "transformer", names=["a"], checkpoint_hash="1")["a"] == 1.0
    with pytest.raises(CheckpointError, match="was made for other weights of transformer"):
        read_ranges(path, "transformer", names=["a"], checkpoint_hash="2")
    for name in ("b", "c"):
        with pytest.raises(CheckpointError, match="1 ranges of transformer are missing or not positive"):
            read_ranges(path, "transformer", names=["a", name], checkpoint_hash="1")


def test_an_export_in_fp8_without_ranges_ends_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["onnx", "--checkpoint", str(checkpoint), "--precision", "fp8", "--fp8-ranges", str(tmp_path / "none")]
    assert main([*asked, "--folder", str(tmp_path / "export")]) == 1
    assert "FP8 and INT8 need the ranges of activations" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
