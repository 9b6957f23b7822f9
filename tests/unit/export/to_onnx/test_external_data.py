from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.weights.component_weights import EMBEDDINGS, check_tensors, with_one_embedding
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.to_onnx.external_data import attach_external_data


def saved(folder: Path, tensors: dict[str, torch.Tensor], component: str = "text_encoder") -> dict[str, StoredTensor]:
    (folder / component).mkdir()
    name = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    save_file(tensors, folder / component / f"{name}.safetensors")
    return stored_tensors(folder, component)


def stored(**shapes: tuple[int, ...]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(Path("x"), "F32", shape, 0, 4) for name, shape in shapes.items()}


def test_missing_surplus_and_wrong_tensors_are_named_in_one_message() -> None:
    found = stored(same=(2,), wrong=(2, 3), extra=(1,), norm_added_q=(1,))
    with pytest.raises(CheckpointError) as caught:
        check_tensors(
            "CKPT/transformer", {"same": (2,), "wrong": (3, 2), "gone": (1,)}, found, ignored=["norm_added_q"]
        )
    assert str(caught.value).startswith(
        "CKPT/transformer: the weights do not fit config.json; tensors 1 missing: gone; 1 surplus: extra; "
        "1 of another shape: wrong is (2, 3), expected (3, 2)."
    )


def test_a_long_list_is_counted() -> None:
    expected = {f"blocks.{index}": (1,) for index in range(20)}
    with pytest.raises(CheckpointError, match=r"20 missing: blocks.0, .*, blocks.4 and 15 more"):
        check_tensors("CKPT", expected, {})


@pytest.mark.parametrize("names", [EMBEDDINGS[:1], EMBEDDINGS[1:], EMBEDDINGS])
def test_the_embedding_is_found_under_either_name_or_both(tmp_path: Path, names: tuple[str, ...]) -> None:
    matrix = torch.randn(8, 4)
    found = saved(tmp_path, {name: matrix.clone() for name in names})
    both = with_one_embedding("CKPT", found)
    assert both[EMBEDDINGS[0]] == both[EMBEDDINGS[1]] == found[names[0]]


def test_zeros_that_transformers_saved_beside_a_good_embedding_are_passed_over(tmp_path: Path) -> None:
    found = saved(tmp_path, {EMBEDDINGS[0]: torch.randn(8, 4), EMBEDDINGS[1]: torch.zeros(8, 4)})
    assert with_one_embedding("CKPT", found)[EMBEDDINGS[1]] == found[EMBEDDINGS[0]]


def test_an_embedding_of_zeros_or_two_different_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zeros").mkdir()
    zeros = saved(tmp_path / "zeros", {EMBEDDINGS[0]: torch.zeros(8, 4)})
    with pytest.raises(CheckpointError, match="shared.weight holds only zeros: every prompt would mean the same"):
        with_one_embedding("CKPT", zeros)
    different = saved(tmp_path, {name: torch.randn(8, 4) for name in EMBEDDINGS})
    with pytest.raises(CheckpointError, match=r"shared.weight and encoder.embed_tokens.weight should be one .* differ"):
        with_one_embedding("CKPT", different)


def scaled(dtype: ir.DataType) -> ir.Model:
    """`y = x * w` with a weight that has no value."""
    x = ir.Value(name="x", shape=ir.Shape((3,)), type=ir.TensorType(dtype))
    weight = ir.Value(name="m.w", shape=ir.Shape((3,)), type=ir.TensorType(dtype))
    node = ir.node("Mul", [x, weight])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", ir.TensorType(dtype), ir.Shape((3,))
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 23}, name="scaled")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("kept_as", "casts"), [("float32", 0), ("float16", 1), ("bfloat16", 1)])
def test_a_weight_is_read_from_the_checkpoint_and_cast_where_types_differ(
    tmp_path: Path, kept_as: str, casts: int
) -> None:
    weight = torch.tensor([0.5, 1.5, -3.0]).to(getattr(torch, kept_as))
    found = saved(tmp_path, {"first": torch.randn(7), "w": weight}, "transformer")
    model = scaled(ir.DataType.FLOAT)
    external_data = attach_external_data(model, {f"m.{name}": tensor for name, tensor in found.items()})
    assert (external_data.tensors, external_data.parameters, external_data.casts) == (1, 3, casts)
    assert external_data.files == ("diffusion_pytorch_model.safetensors",)
    path = tmp_path / "transformer/graph.onnx"
    ir.save(model, path)
    assert path.stat().st_size < 1000
    session = onnxruntime.InferenceSession(str(path))
    assert session.run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [0.5, 1.5, -3.0]
