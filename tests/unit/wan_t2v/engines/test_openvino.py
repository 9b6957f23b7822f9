"""The engine `openvino` on wan-mini's exported graphs, held to ONNX Runtime on the same files."""

import gc
from pathlib import Path

import numpy as np
import openvino
import pytest

from tests.fakes.engine_checks import check_agrees, check_decodes, example_inputs
from wan_t2v.contract import VAE_CACHES
from wan_t2v.engines.double_buffer import DoubleBufferedCaches
from wan_t2v.engines.engine import BufferedEngine
from wan_t2v.engines.openvino import OpenVinoEngine, UnsupportedPrecision, check_precision
from wan_t2v.facts import ModelFacts
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.manifests import ManifestError

WITHOUT_CACHES = ("text_encoder", "high_noise_expert", "low_noise_expert", "vae_decoder_first")
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
PRECISIONS = ("f32", pytest.param("bf16", marks=pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")))


def engine(repository: Path, graph: str, *, precision: str = "f32") -> BufferedEngine:
    return OpenVinoEngine(repository / graph / "1/model.onnx", threads=1, precision=precision)


@pytest.mark.parametrize("graph", WITHOUT_CACHES)
def test_it_agrees_with_onnx_runtime(graph: str, repository: Path) -> None:
    check_agrees(graph, engine(repository, graph), repository)


def test_both_vae_graphs_give_the_same_clips_with_memory_of_the_callers_and_without(repository: Path) -> None:
    first, later = (engine(repository, name) for name in ("vae_decoder_first", "vae_decoder_next"))
    check_decodes(first, later, repository)
    check_decodes(first, DoubleBufferedCaches(later), repository)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_has_the_same_bytes_alone_and_beside_another(precision: str, repository: Path) -> None:
    """A request's video must not depend on the requests that it was merged with."""
    facts = ModelFacts.read(repository / "prepare/1")
    expert = engine(repository, "high_noise_expert", precision=precision)
    both = {
        name: tensor.numpy() for name, tensor in example_inputs("high_noise_expert", facts, batch=2, size=16).items()
    }
    together = expert(both)["velocity"]
    for row in range(2):
        alone = expert({name: array[row : row + 1] for name, array in both.items()})["velocity"]
        assert np.array_equal(alone[0], together[row])


def test_an_answer_stays_as_it_was_when_the_graph_runs_again(repository: Path) -> None:
    """The answers are views of memory that belongs to OpenVINO's request."""
    facts = ModelFacts.read(repository / "prepare/1")
    expert = engine(repository, "high_noise_expert")
    inputs = {
        name: tensor.numpy() for name, tensor in example_inputs("high_noise_expert", facts, batch=1, size=8).items()
    }
    answer = expert(inputs)["velocity"]
    before = answer.copy()
    for _ in range(3):
        expert({**inputs, "hidden_states": inputs["hidden_states"] * 2})
        gc.collect()
    assert np.array_equal(answer, before)


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")
def test_bf16_is_near_fp32_and_not_equal(repository: Path) -> None:
    facts = ModelFacts.read(repository / "prepare/1")
    inputs = example_inputs("low_noise_expert", facts, batch=1, size=16)
    exact, rounded = (
        engine(repository, "low_noise_expert", precision=precision)(inputs)["velocity"] for precision in ("f32", "bf16")
    )
    assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05


def test_a_precision_that_the_cpu_does_not_have_is_refused() -> None:
    check_precision("f32", ["FP32", "INT8"])
    check_precision("bf16", ["FP32", "BF16"])
    with pytest.raises(UnsupportedPrecision, match="inference_precision is 'bf16', but this CPU has FP32, INT8"):
        check_precision("bf16", ["INT8", "FP32"])


def test_shapes_of_no_clip_are_refused_by_name(repository: Path) -> None:
    """OpenVINO itself takes a timestep of three columns for one row."""
    decoder, expert = engine(repository, "vae_decoder_next"), engine(repository, "high_noise_expert")
    caches = {f"cache_in_{index}": np.zeros((1, 4, 2, 5, 5), np.float32) for index in range(VAE_CACHES)}
    with pytest.raises(InvalidField, match=r"cache_in_0: got shape \[1, 4, 2, .*latent_height"):
        decoder({"latents": np.zeros((1, 16, 1, 4, 4), np.float32), **caches})
    inputs = example_inputs("high_noise_expert", ModelFacts.read(repository / "prepare/1"), batch=1, size=8)
    with pytest.raises(InvalidField, match=r"timestep: got shape \[1, 3\]"):
        expert({**inputs, "timestep": np.zeros((1, 3), np.float32)})


def test_a_graph_without_its_manifest_is_not_loaded(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(repository / "vae_decoder_first/1/model.onnx")
    with pytest.raises((ManifestError, FileNotFoundError), match=r"manifest\.json"):
        OpenVinoEngine(tmp_path / "model.onnx")
