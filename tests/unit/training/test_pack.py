"""The packed folder is a checkpoint that `export` takes, small enough for the repository."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import training.__main__
import training.pack
from export.atomic import OccupiedFolderError
from export.checkpoint.folder import Checkpoint
from training.learn.modules import new_expert, new_text_encoder, new_vae
from training.learn.sampling import Modules
from training.pack import TooLargeError, load_packed_modules, write_checkpoint
from training.stages import new_tokenizer
from wan_t2v.facts import ServingDefaults
from wan_t2v.shapes import VideoShape

VIDEO = VideoShape(17, 64, 64)
COMPONENTS = ("text_encoder", "transformer", "transformer_2", "vae")


@pytest.fixture(scope="module")
def modules() -> Modules:
    return new_modules()


def new_modules() -> Modules:
    torch.manual_seed(0)
    vae = new_vae()
    vae.register_to_config(latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
    for weight in vae.parameters():
        if not weight.any():  # as a convolution begins that is trained from zero; zeros look like a broken download
            torch.nn.init.normal_(weight, std=0.01)
    return Modules(new_tokenizer(), new_text_encoder(), new_expert(), new_expert(), vae)


@pytest.fixture(scope="module")
def checkpoint(modules: Modules, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training.pack, "PREVIEW_CLIPS", 2)  # a fit to 48 takes a minute
        return write_checkpoint(copy.deepcopy(modules), tmp_path_factory.mktemp("pack") / "wan-mini", video=VIDEO)


def test_export_takes_the_packed_checkpoint(checkpoint: Path) -> None:
    Checkpoint.open(checkpoint).check()
    facts = Checkpoint.open(checkpoint).facts
    assert facts.latents_mean == (0.5,) * 16
    assert facts.latents_std == (2.0,) * 16
    assert facts.boundary_timestep == 875.0


@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_are_stored_in_half_precision_and_load_in_single(checkpoint: Path, component: str) -> None:
    (stored,) = (checkpoint / component).glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(stored).values()} == {torch.float16}
    loaded = Checkpoint.open(checkpoint).module(component)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_packed_weights_are_the_trained_ones(checkpoint: Path, modules: Modules) -> None:
    loaded = dict(Checkpoint.open(checkpoint).module("transformer_2").named_parameters())
    for name, trained in modules.low_noise_expert.named_parameters():
        assert torch.allclose(loaded[name], trained.float(), atol=1e-3)


def test_what_was_packed_is_read_back_whole(checkpoint: Path, modules: Modules) -> None:
    back = load_packed_modules(checkpoint)
    assert back.vae.config.latents_std == [2.0] * 16
    assert back.tokenizer("a red ball").input_ids == modules.tokenizer("a red ball").input_ids
    for name in ("text_encoder", "high_noise_expert", "low_noise_expert", "vae"):
        expected = dict(getattr(modules, name).named_parameters())
        for key, weight in getattr(back, name).named_parameters():
            assert weight.dtype == torch.float32
            assert torch.allclose(weight, expected[key].float(), rtol=1e-3, atol=1e-3), f"{name}.{key}"


def test_the_size_that_was_trained_becomes_the_default(checkpoint: Path) -> None:
    defaults = ServingDefaults.read(checkpoint)
    assert (defaults.num_frames, defaults.height, defaults.width) == VIDEO
    assert defaults.num_inference_steps == 40
    written = json.loads((checkpoint / "serving_defaults.json").read_text(encoding="utf-8"))
    assert all(entry["source"] for entry in written.values())


def test_a_checkpoint_too_large_for_the_repository_is_refused(
    modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.pack, "MAX_BYTES", 1000)
    with pytest.raises(TooLargeError, match="at most 1,000"):
        write_checkpoint(copy.deepcopy(modules), tmp_path / "wan-mini", video=VIDEO)
    assert not (tmp_path / "wan-mini").exists()


def test_a_folder_that_holds_something_else_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "out/notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    monkeypatch.setattr("training.__main__.train_vae", lambda settings: pytest.fail("it trains already"))
    monkeypatch.setattr("sys.argv", ["training", "all", "--work", str(tmp_path), "--out", str(mine.parent)])
    with pytest.raises(SystemExit, match="error: .*out would be replaced"):
        training.__main__.main()
    with pytest.raises(OccupiedFolderError, match="out would be replaced"):
        write_checkpoint(new_modules(), mine.parent, video=VIDEO)
    assert mine.read_text() == "mine"
