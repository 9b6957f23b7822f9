"""The engines on a GPU against ONNX Runtime on the CPU. The same checks run on the CPU in tests/unit/wan_t2v/engines."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.engine_checks import check_agrees, check_decodes, example_inputs, relative
from tests.fakes.programs import install_programs
from wan_t2v.engines.double_buffer import DoubleBufferedCaches
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.engines.tensorrt.tensorrt_module import MODULES, TensorRtMissing, tensorrt_module
from wan_t2v.engines.tensorrt.tensorrt_plan import TensorRtEngine
from wan_t2v.engines.torch_program import TorchEngine
from wan_t2v.facts import ModelFacts

TOLERANCE = 5e-3  # TF32 in convolutions, which torch and TensorRT use on a GPU, has ten bits of fraction
EXPERT = "high_noise_expert"


@pytest.fixture(scope="session")
def programs(gpu: str, root: Path, checkpoint: Path) -> Path:
    return install_programs(checkpoint, root / "build/test-programs")


@pytest.mark.parametrize("graph", ["text_encoder", "high_noise_expert", "low_noise_expert", "vae_decoder_first"])
def test_torch_agrees_with_onnx_runtime(graph: str, gpu: str, programs: Path, repository: Path) -> None:
    engine = TorchEngine(programs / graph / "1/model.pt2", device=gpu)
    check_agrees(graph, engine, repository, tolerance=TOLERANCE)


def test_torchs_answers_stay_on_the_gpu(gpu: str, programs: Path, repository: Path) -> None:
    engine = TorchEngine(programs / EXPERT / "1/model.pt2", device=gpu)
    inputs = example_inputs(EXPERT, ModelFacts.read(repository / "denoiser/1"), batch=1, size=8)
    assert engine(inputs)["velocity"].is_cuda


def test_torch_decodes_in_two_sets_of_caches(gpu: str, programs: Path, repository: Path) -> None:
    first, later = (
        TorchEngine(programs / name / "1/model.pt2", device=gpu) for name in ("vae_decoder_first", "vae_decoder_next")
    )
    check_decodes(first, DoubleBufferedCaches(later), repository, differing=0.05)


def test_torch_compiled_agrees(gpu: str, programs: Path, repository: Path) -> None:
    engine = TorchEngine(programs / EXPERT / "1/model.pt2", device=gpu, compile_backend="inductor")
    check_agrees(EXPERT, engine, repository, tolerance=TOLERANCE)


@pytest.fixture(scope="module", params=MODULES)
def expert_plan(request: pytest.FixtureRequest, gpu: str, repository: Path, tmp_path_factory: Any) -> tuple[Any, Path]:
    """wan-mini's expert as a plan with two profiles, built here, with each TensorRT that is installed."""
    try:
        trt = tensorrt_module(request.param)
    except TensorRtMissing as error:
        pytest.skip(str(error))
    from export.to_plan.builder import Attention, BuildSettings, PlanShapes, plan_from_onnx

    facts = ModelFacts.read(repository / "denoiser/1")
    profiles = tuple(
        {"latent_frames": 3, "latent_height": size, "latent_width": 4, "text_length": facts.text_length}
        for size in (8, 16)
    )
    path = tmp_path_factory.mktemp(request.param) / "model.plan"
    settings = BuildSettings(compute_capabilities=("current",))
    source = repository / EXPERT / "1/model.onnx"
    plan_from_onnx(trt, source, path, PlanShapes(profiles), settings, attention=Attention())
    return trt, path


def test_a_plan_computes_what_its_graph_computes(gpu: str, expert_plan: tuple[Any, Path], repository: Path) -> None:
    """On the GPU, twice in a row and in both profiles, from inputs that other streams have just written."""
    trt, path = expert_plan
    engine = TensorRtEngine(path, device=gpu, module=trt)
    reference = OnnxRuntimeEngine(repository / EXPERT / "1/model.onnx")
    facts = ModelFacts.read(repository / "denoiser/1")
    for size in (8, 16, 8):
        inputs = example_inputs(EXPERT, facts, batch=1, size=size)
        with torch.cuda.stream(torch.cuda.Stream()):
            there = {name: array.to(gpu) * 1 for name, array in inputs.items()}
            velocity = engine(there)["velocity"]
            buffer = torch.empty_like(velocity)
            again = engine(there, buffers={"velocity": buffer})["velocity"]
            assert velocity.is_cuda and again is buffer
            assert torch.equal(velocity, again)
        assert relative(velocity, reference(inputs)["velocity"]) <= TOLERANCE
