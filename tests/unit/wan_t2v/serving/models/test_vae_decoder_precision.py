"""The VAE's graphs in BF16: latents come from the solver in FP32, and no engine converts what it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint.folder import Checkpoint
from export.graphs.precision import Precisions
from export.graphs.registry import GRAPHS
from tests.fakes import fake_tensorrt
from tests.fakes.pb_utils import FakePbUtils, FakeResponse, FakeTensor
from tests.fakes.programs import install_programs
from tests.unit.wan_t2v.serving.models.decoders import clips, decoder, frames, link_decoders
from wan_t2v.contract import CACHE_OUT, cache_input_of, cache_names
from wan_t2v.engines.engine import Array, Engine
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.engines.tensorrt.tensorrt_plan import TensorRtEngine
from wan_t2v.engines.torch_program import TorchEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.frames import uint8_frames
from wan_t2v.latents import vae_from_diffusion
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.models import vae_decoder
from wan_t2v.serving.models.vae_decoder import FIRST, NEXT, VaeDecoder

LOCATIONS = pytest.mark.parametrize("location", ["triton", "in_process"])


@pytest.fixture(scope="module")
def in_bf16(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs' own manifests say FP32, those of the programs BF16. The programs are empty files."""
    programs = tmp_path_factory.mktemp("programs")
    for name in (FIRST, NEXT):
        (programs / name / "1").mkdir(parents=True)
        (programs / name / "1/model.pt2").touch()
        (programs / name / "1/program.json").write_text('{"precision": "bf16"}')
    return link_decoders(repository, programs, tmp_path_factory.mktemp("bf16"))


class ModuleEngine:
    """The module that a torch program is traced from, as an Engine. To trace the two takes a minute."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        spec = GRAPHS[name]
        self._module = spec.module(checkpoint.module(spec.component, "bf16")).eval()
        call = spec.example(checkpoint.facts, self._module)
        self._inputs, self._outputs = call.input_names, call.output_names

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Any]:
        with torch.inference_mode():
            results = self._module(*(inputs[name] for name in self._inputs))
        found = dict(zip(self._outputs, results, strict=True))
        return {name: found[name] for name in outputs or self._outputs}


def server_with(engines: Mapping[str, Engine]) -> FakePbUtils:
    def answer(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor(name, array) for name, array in engines[model](inputs, outputs).items()])

    return FakePbUtils(answer)


@LOCATIONS
def test_modules_in_bf16_give_the_frames_of_fp32_but_for_rounding(
    location: str, in_bf16: Path, repository: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager torch refuses an input of another type than its weights, as plans and programs do."""
    modules = {name: ModuleEngine(Checkpoint.open(checkpoint), name) for name in (FIRST, NEXT)}
    monkeypatch.setattr(vae_decoder, "load_installed_engine", lambda _, folder, settings: modules[folder.parent.name])
    check_frames(location, in_bf16, modules, repository)


@pytest.mark.nightly
@LOCATIONS
def test_torch_programs_in_bf16_give_the_frames_of_fp32_but_for_rounding(
    location: str, repository: Path, checkpoint: Path, root: Path, tmp_path: Path
) -> None:
    programs = install_programs(
        checkpoint, root / "build/test-programs-bf16", (FIRST, NEXT), precisions=Precisions(vae="bf16")
    )
    installed = link_decoders(repository, programs, tmp_path)
    engines = {name: TorchEngine(installed / name / "1/model.pt2", threads=1) for name in (FIRST, NEXT)}
    check_frames(location, installed, engines, repository)


def check_frames(location: str, in_bf16: Path, engines: Mapping[str, Engine], repository: Path) -> None:
    server = server_with(engines)
    onnx = {name: OnnxRuntimeEngine(repository / name / "1/model.onnx", threads=1) for name in (FIRST, NEXT)}
    model = decoder(in_bf16, server, engine_location=location, engine="torch", vae_precision="bf16")
    latents = clips()[0][:, :, :2]
    rounded, exact = (made.decode(latents, lambda: False) for made in (model, decoder(repository, server_with(onnx))))
    assert rounded.shape == exact.shape == (5, 32, 48, 3)
    assert 0 < (rounded.int() - exact.int()).abs().float().mean() < 2
    assert bool(server.called) == (location == "triton")


def doubling_plan(folder: Path, name: str) -> TensorRtEngine:
    """A plan in BF16 whose frames are twice the latents, and whose caches are twice the latents or caches before."""
    inputs = {"latents": ("BF16", [1, 16, 1, 4, 6])}
    outputs = {"frames": "latents", **dict.fromkeys(cache_names(CACHE_OUT), "latents")}
    if name == NEXT:
        outputs |= {cache: cache_input_of(cache) for cache in cache_names(CACHE_OUT)}
        inputs |= {cache_input_of(cache): ("BF16", [1, 16, 1, 4, 6]) for cache in cache_names(CACHE_OUT)}
    plan = fake_tensorrt.plan(folder / name, inputs, outputs=outputs)
    return TensorRtEngine(plan, device="cpu", module=fake_tensorrt)


@LOCATIONS
def test_plans_in_bf16_get_bf16_and_their_caches_go_on_as_they_came(
    location: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plan's inputs, Triton's core compares a call with the types of the called model's config."""
    plans = {name: doubling_plan(tmp_path, name) for name in (FIRST, NEXT)}
    monkeypatch.setattr(vae_decoder, "load_installed_engine", lambda _, folder, settings: plans[folder.parent.name])
    repository = copied_without_graphs(repository, tmp_path / "repository")
    options = {"engine_location": location, "engine": "tensorrt", "vae_precision": "bf16"}
    model = decoder(repository, server_with(plans), kind="GPU", **options)
    facts = ModelFacts.read(repository / "vae_decoder/1")
    for found, latents in zip(frames(model), clips(), strict=True):
        scaled = vae_from_diffusion(latents, facts.latents_mean, facts.latents_std)
        np.testing.assert_array_equal(found, uint8_frames(2 * scaled.bfloat16()).numpy())


def copied_without_graphs(repository: Path, folder: Path) -> Path:
    """No precision is in these graphs' manifests, which hold what `vae_decoder` reads."""
    for model in ("vae_decoder", FIRST, NEXT):
        (folder / model / "1").mkdir(parents=True)
        for name in ("model_facts.json", "manifest.json"):
            source = repository / model / "1" / name
            if source.exists():
                (folder / model / "1" / name).write_text(source.read_text().replace('"precision": "fp32"', '"old": 1'))
    return folder


def test_in_fp32_the_graphs_get_the_scaled_latents_themselves(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(repository, FakePbUtils())
    scaled = torch.zeros(1, 16, 1, 4, 6)
    addresses: list[int] = []

    def first(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        addresses.append(inputs["latents"].data_ptr())
        return {"frames": torch.zeros(1, 3, 1, 2, 2), "cache_out_31": torch.zeros(1)}

    monkeypatch.setattr(vae_decoder, "vae_from_diffusion", lambda *given: scaled)
    model._first = first
    model.decode(torch.zeros(1, 16, 1, 4, 6), lambda: False)
    assert addresses == [scaled.data_ptr()]


def test_another_precision_than_that_of_the_installed_graphs_is_refused_at_start(
    in_bf16: Path, repository: Path
) -> None:
    """Else each clip would fail after its denoising."""

    def refused(repository: Path, **parameters: str) -> VaeDecoder:
        return decoder(repository, FakePbUtils(), **parameters)

    with pytest.raises(ParameterError, match="vae_precision is 'int8', accepted: fp32, bf16, fp16"):
        refused(repository, vae_precision="int8")
    told = "vae_precision is 'bf16', accepted: fp32, in which vae_decoder_first is installed.* --vae-precision"
    with pytest.raises(ParameterError, match=told):
        refused(repository, vae_precision="bf16")
    with pytest.raises(ParameterError, match="vae_precision is 'fp32', accepted: bf16, in which vae_decoder_first"):
        refused(in_bf16, engine_location="in_process", engine="torch")
