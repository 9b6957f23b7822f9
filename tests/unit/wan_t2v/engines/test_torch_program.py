"""The torch engine computes what ONNX Runtime computes from the same checkpoint."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.engine_checks import check_agrees, check_decodes, example_inputs
from wan_t2v.engines.double_buffer import DoubleBufferedCaches
from wan_t2v.engines.engine import BufferedEngine
from wan_t2v.engines.torch_program import TorchEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.serving.models.latent_frames import check_latent_frames
from wan_t2v.serving.python_backend.parameters import ModelParameters

WITHOUT_CACHES = ("text_encoder", "high_noise_expert", "vae_decoder_first")


@pytest.fixture(scope="module")
def engine(programs: Path) -> Callable[[str], BufferedEngine]:
    """Loads each graph when the first test needs it: a decoder's takes seconds."""
    return functools.cache(lambda graph: TorchEngine(programs / graph / "1/model.pt2"))


@pytest.mark.parametrize("graph", WITHOUT_CACHES)
def test_it_agrees_with_onnx_runtime(graph: str, engine: Callable[[str], BufferedEngine], repository: Path) -> None:
    check_agrees(graph, engine(graph), repository)


def test_both_vae_graphs_give_the_same_clips(engine: Callable[[str], BufferedEngine], repository: Path) -> None:
    first, later = engine("vae_decoder_first"), engine("vae_decoder_next")
    check_decodes(first, later, repository)
    check_decodes(first, DoubleBufferedCaches(later), repository)


@pytest.mark.parametrize("graph", ["vae_decoder_first", "vae_decoder_next"])
def test_a_program_tells_that_it_decodes_any_number_of_latent_frames(graph: str, programs: Path) -> None:
    check_latent_frames(
        ModelParameters(graph, Path(), {"latent_frames_per_call": "21"}), programs / graph / "1", "torch"
    )


def test_every_answer_has_memory_of_its_own(engine: Callable[[str], BufferedEngine], repository: Path) -> None:
    """Caches that were views would keep tensors alive that are three times as large, for a whole clip."""
    facts = ModelFacts.read(repository / "vae_decoder/1")
    first, later = engine("vae_decoder_first"), engine("vae_decoder_next")
    latents = example_inputs("vae_decoder_first", facts, batch=1, size=4)
    for answer in (caches := first(latents), later({**latents, **as_inputs(caches)})):
        for name, tensor in answer.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def as_inputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_out_", "_in_"): array for name, array in answer.items() if name.startswith("cache_")}


def test_compiled_it_computes_the_same(programs: Path, repository: Path) -> None:
    """`eager` runs what torch.compile captured without generating code: the path without the minutes."""
    compiled = TorchEngine(programs / "text_encoder/1/model.pt2", compile_backend="eager")
    check_agrees("text_encoder", compiled, repository)


@pytest.mark.parametrize("wanted", [False, True])
def test_fp32_is_tf32_only_where_that_was_chosen(wanted: bool, programs: Path) -> None:
    """On a GPU torch's convolutions are in TF32 by default."""
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = not wanted
        TorchEngine(programs / "text_encoder/1/model.pt2", tf32=wanted)
        assert [flag.allow_tf32 for flag in flags] == [wanted, wanted]
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


def test_only_what_is_asked_for_is_returned(engine: Callable[[str], BufferedEngine], repository: Path) -> None:
    facts = ModelFacts.read(repository / "vae_decoder/1")
    inputs = example_inputs("vae_decoder_first", facts, batch=1, size=2)
    made = engine("vae_decoder_first")
    assert list(made(inputs, ["frames"])) == ["frames"]
    with pytest.raises(ValueError, match=r"inputs are \['x'\], accepted: \['latents'\]"):
        made({"x": torch.zeros(1)})


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"model.pt2 cannot be read by torch .*python -m export.to_torch_program"):
        TorchEngine(tmp_path / "model.pt2")


def test_a_compile_backend_that_does_not_exist_is_refused(programs: Path) -> None:
    with pytest.raises(Exception, match="backend"):
        TorchEngine(programs / "text_encoder/1/model.pt2", compile_backend="gcc")
