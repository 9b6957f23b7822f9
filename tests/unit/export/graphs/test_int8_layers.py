"""INT8 for ONNX Runtime: what is stored, that whole numbers are multiplied, and that a row is alone in its batch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import WanTransformer3DModel

from export.__main__ import main
from export.checkpoint.folder import Checkpoint
from export.graphs.int8_layers import (
    ONNX_RUNTIME,
    TENSORRT,
    Int8Linear,
    form_of,
    input_ranges,
    put_in_int8,
    through_int8,
)
from export.graphs.precision import LINEARS_OF_A_BLOCK, blocks_in_int8
from export.parity.graph_parity import ParityError
from export.parity.integer_products import check_integer_products, integer_products
from export.to_onnx.exporter import onnx_from_module
from tests.unit.export.graphs.tiny_expert import BLOCKS, arrays, call, expert, relative
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine


def ranges_of(module: WanTransformer3DModel) -> dict[str, float]:
    ranges: dict[str, float] = {}
    hooks = []
    for name in input_ranges(range(BLOCKS)):

        def hook(_: object, inputs: tuple[torch.Tensor], name: str = name) -> None:
            ranges[name] = float(inputs[0].abs().max())

        hooks.append(module.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(hook))
    module(*call(module))
    for handle in hooks:
        handle.remove()
    return ranges


@pytest.fixture(scope="module")
def graph(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = expert(tiny)
    put_in_int8(module, ranges_of(module), blocks=blocks_in_int8(BLOCKS), form=ONNX_RUNTIME)
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    return onnx_from_module(module, "high_noise_expert", Checkpoint.open(tiny).facts, path)


def test_all_blocks_of_a_small_expert_and_the_inner_ones_of_a_large_one_are_in_int8() -> None:
    assert blocks_in_int8(4) == range(4)
    assert blocks_in_int8(40) == range(3, 37)


def test_an_input_has_256_steps_and_what_lies_beyond_is_clamped() -> None:
    x = torch.tensor([0.0, 0.4, 0.6, 2.5, 1000.0, -1000.0])
    assert through_int8(x, 1.0, 128).tolist() == [0.0, 0.0, 1.0, 2.0, 127.0, -128.0]
    assert through_int8(x, 0.5, 0)[4] == 63.5


@pytest.mark.parametrize("form", [ONNX_RUNTIME, TENSORRT])
def test_each_output_of_a_weight_has_a_scale_of_its_own(form: object) -> None:
    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.001, -0.002, 0.0], [50.0, 100.0, -25.0]]))
    int8 = Int8Linear(linear, 1.0, form)  # type: ignore[arg-type]
    largest = form.largest_weight  # type: ignore[attr-defined]
    assert int8.weight.dtype == torch.int8 and int8.weight.shape == (3, 2)
    assert int8.weight.abs().amax(dim=0).tolist() == [largest, largest]
    assert torch.allclose(int8.weight_scales * largest, torch.tensor([0.002, 100.0]))


def test_each_precision_has_the_form_of_its_compiler() -> None:
    assert (form_of("int8"), form_of("int8-bf16")) == (ONNX_RUNTIME, TENSORRT)


def test_the_largest_numbers_of_onnx_runtimes_form_do_not_overflow_16_bits() -> None:
    """Two products are added in 16 bits on processors without VNNI."""
    assert 2 * 255 * ONNX_RUNTIME.largest_weight < 2**15


def test_a_graph_multiplies_whole_numbers_and_computes_what_torch_computes(graph: Path, tiny: Path) -> None:
    stored = [i for i in onnx.load(graph).graph.initializer if i.data_type == onnx.TensorProto.INT8 and i.dims]
    assert len(stored) == LINEARS_OF_A_BLOCK * BLOCKS
    assert integer_products(graph) == dict.fromkeys(range(BLOCKS), LINEARS_OF_A_BLOCK)
    module = expert(tiny)
    inputs = call(module)
    plain = module(*inputs, return_dict=False)[0].numpy()
    put_in_int8(module, ranges_of(module), blocks=blocks_in_int8(BLOCKS), form=ONNX_RUNTIME)
    quantised = module(*inputs, return_dict=False)[0].numpy()
    answer = OnnxRuntimeEngine(graph)(arrays(*inputs))["velocity"]
    assert relative(answer, quantised) < 2e-3  # what lies between two steps may fall to either side
    assert 1e-3 < relative(plain, quantised) < 0.05


def test_a_row_has_the_same_bytes_alone_and_beside_another(graph: Path, tiny: Path) -> None:
    engine = OnnxRuntimeEngine(graph, threads=1)
    alone = arrays(*call(expert(tiny)))
    louder = {name: array * 7 for name, array in alone.items()}
    together = engine({name: np.concatenate([alone[name], louder[name]]) for name in alone})["velocity"]
    assert together[0].tobytes() == engine(alone)["velocity"][0].tobytes()
    assert together[1].tobytes() == engine(louder)["velocity"][0].tobytes()


def test_a_graph_that_onnx_runtime_computes_in_fp32_is_refused(graph: Path, exported: Path) -> None:
    check_integer_products(graph, BLOCKS)
    with pytest.raises(ParityError, match="left 40 of 40 INT8 layers in FP32. Use the onnxruntime of constraints.txt"):
        check_integer_products(exported / "high_noise_expert/model.onnx", 4)


def test_an_export_without_ranges_ends_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["onnx", "--checkpoint", str(checkpoint), "--precision", "int8", "--fp8-ranges", str(tmp_path / "none")]
    assert main([*asked, "--folder", str(tmp_path / "export")]) == 1
    assert "FP8 and INT8 need the ranges of activations" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
