"""The VAE's two graphs as models behind the server, and as engines in this process: the same frames."""

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.pb_utils import FakePbUtils, FakeRequest, FakeResponse, FakeTensor, FakeTritonError
from tests.fakes.programs import install_programs
from tests.unit.wan_t2v.serving.models.decoders import decoder, frames, link_decoders, signed
from wan_t2v.engines.by_size import version_of_size
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import FINISHING, RunDirectory
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.models.vae_decoder import FIRST, NEXT, VaeDecoder
from wan_t2v.shapes import VideoShape


@pytest.fixture(scope="module")
def server(repository: Path) -> FakePbUtils:
    """Answers calls to the two graphs as the server would."""
    engines = {name: OnnxRuntimeEngine(repository / name / "1/model.onnx", threads=1) for name in (FIRST, NEXT)}

    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor(name, array) for name, array in engines[model](inputs, outputs).items()])

    return FakePbUtils(answer)


def test_in_process_the_frames_are_the_same_and_no_model_is_called(server: FakePbUtils, repository: Path) -> None:
    remote = frames(decoder(repository, server))
    assert server.called == [FIRST, *[NEXT] * 5] * 2
    own = FakePbUtils()
    for here, there in zip(frames(decoder(repository, own, engine_location="in_process")), remote, strict=True):
        assert here.shape == (21, 32, 48, 3)
        np.testing.assert_array_equal(here, there)
    assert own.called == []


@pytest.fixture(scope="module")
def with_programs(repository: Path, checkpoint: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs = install_programs(checkpoint, root / "build/test-programs", (FIRST, NEXT))
    return link_decoders(repository, programs, tmp_path_factory.mktemp("torch"))


def test_in_torch_in_this_process_the_frames_are_those_of_the_onnx_graphs_and_no_set_of_caches_is_kept(
    server: FakePbUtils, repository: Path, with_programs: Path
) -> None:
    """The engine that placement falls back to: of the bytes at most one in a thousand is another, and by one.

    torch does not write into memory that is handed to it, so a spare set of caches would be a third one.
    """
    own = FakePbUtils()
    model = decoder(with_programs, own, engine_location="in_process", engine="torch")
    counts = count_sets_of_caches(model)
    in_torch = frames(model)
    assert counts == 2 * [0, 1, 1, 1, 1], "the set that a call reads, and no other"
    for here, there in zip(in_torch, frames(decoder(repository, server)), strict=True):
        assert here.shape == there.shape == (21, 32, 48, 3)
        difference = np.abs(here.astype(int) - there)
        assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    assert own.called == []


def count_sets_of_caches(model: VaeDecoder) -> list[int]:
    """How many sets that the second graph answered are alive at each of its calls, as the calls are made."""
    counts: list[int] = []
    alive: list[weakref.WeakSet[torch.Tensor]] = []
    engine = model._next

    def counted(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        counts.append(sum(bool(len(step)) for step in alive))
        answer = engine(inputs, outputs)
        alive.append(weakref.WeakSet(tensor for name, tensor in answer.items() if name != "frames"))
        return answer

    model._next = counted
    return counts


def test_an_unknown_location_and_an_unknown_engine_are_refused(repository: Path) -> None:
    with pytest.raises(ParameterError, match="parameter engine_location is 'gpu', accepted: triton, in_process"):
        decoder(repository, FakePbUtils(), engine_location="gpu")
    with pytest.raises(ParameterError, match="parameter engine is 'onnx', accepted: onnxruntime, torch, tensorrt"):
        decoder(repository, FakePbUtils(), engine_location="in_process", engine="onnx")


def test_the_version_of_the_clips_own_size_is_called(repository: Path, server: FakePbUtils) -> None:
    both = decoder(repository, server, version_sizes="64x64x17,32x48x21")
    before = len(server.versions)
    frames(both)
    assert server.versions[before:] == [2] * 12, "32x48 is the second size"
    with_one = decoder(repository, server)
    before = len(server.versions)
    frames(with_one)
    assert server.versions[before:] == [-1] * 12, "the newest, where sizes are not told apart"


def test_a_size_that_no_version_takes_is_refused(repository: Path, server: FakePbUtils) -> None:
    latents = torch.zeros(1, 16, 6, 4, 6)
    model = decoder(repository, server, version_sizes="64x64x17,64x96x17")
    (response,) = model.execute([FakeRequest(latents_to_decode=latents, settings=signed())])
    assert "latents: got height and width 4x6; accepted: 8x8, 8x12" in response.error().message()


def test_two_sizes_that_differ_in_frames_alone_share_a_version(repository: Path) -> None:
    facts = ModelFacts.read(repository / "prepare/1")
    sizes = (VideoShape(17, 64, 64), VideoShape(33, 64, 64), VideoShape(17, 64, 96))
    assert version_of_size(sizes, facts) == {(8, 8): 1, (8, 12): 3}


def test_a_clip_that_cannot_be_decoded_is_no_longer_on_its_way(repository: Path, run_directory: Path) -> None:
    """Else a drain would wait five minutes for it: the model that forgets a clip is not called."""
    run = RunDirectory.of_server(run_directory, os.getppid())

    def fail(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse(failure=FakeTritonError("out of memory"))

    model = decoder(repository, FakePbUtils(fail))
    run.mark(FINISHING, "1")
    latents = torch.zeros(1, 16, 6, 4, 6)
    (response,) = model.execute([FakeRequest(latents_to_decode=latents, settings=signed())])
    assert response.has_error() and load_of(run).finishing == 0
