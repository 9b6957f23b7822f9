"""The module that is exported has the values and the config that are checked, wherever the library looks for them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import component_configs
from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import COMPONENTS, Checkpoint
from export.checkpoint.meta_module import shell_of
from tests.unit.export.checkpoint.damages import edited

OTHER = "loaded with other values than those in the checked files: .* The library took them from elsewhere"


@pytest.fixture
def trained(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of wan-mini to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "trained"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_change_while_loading_is_found(
    component: str, precision: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, load = Checkpoint.open(checkpoint), Checkpoint._load
    opened.module(component, precision)

    def change(self: Checkpoint, component: str, precision: str) -> torch.nn.Module:
        module: torch.nn.Module = load(self, component, precision)
        with torch.no_grad():
            list(module.parameters())[-1].add_(1.0)
        return module

    monkeypatch.setattr(Checkpoint, "_load", change)
    with pytest.raises(CheckpointError, match=f"{component}: 1 tensors were {OTHER}"):
        opened.module(component, precision)


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "shared.weight"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_under_either_name_is_that_of_the_file(name: str, tied: bool, trained: Path) -> None:
    path = trained / "text_encoder/model.safetensors"
    tensors = load_file(path)
    embedding = next(tensors.pop(one) for one in ("encoder.embed_tokens.weight", "shared.weight") if one in tensors)
    save_file({**tensors, name: embedding}, path, metadata={"format": "pt"})
    edited("text_encoder/config.json", tie_word_embeddings=tied)(trained)
    module = Checkpoint.open(trained).module("text_encoder")
    assert torch.equal(module.state_dict()["encoder.embed_tokens.weight"], embedding.float())


def test_a_name_that_the_encoder_does_not_read_may_hold_zeros(trained: Path) -> None:
    path = trained / "text_encoder/model.safetensors"
    tensors = load_file(path)
    embedding = next(tensors[one] for one in ("encoder.embed_tokens.weight", "shared.weight") if one in tensors)
    names = {"encoder.embed_tokens.weight": embedding, "shared.weight": torch.zeros_like(embedding)}
    save_file({**tensors, **names}, path, metadata={"format": "pt"})
    edited("text_encoder/config.json", tie_word_embeddings=False)(trained)
    module = Checkpoint.open(trained).module("text_encoder")
    assert torch.equal(module.state_dict()["encoder.embed_tokens.weight"], embedding.float())


def test_weights_from_a_file_that_is_not_checked_are_found(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a redirection that is not known to be one."""
    tensors = load_file(trained / "text_encoder/model.safetensors")
    other = {name: 3 * tensor for name, tensor in tensors.items()}
    save_file(other, trained / "text_encoder/other.safetensors", metadata={"format": "pt"})
    edited("text_encoder/config.json", transformers_weights="other.safetensors")(trained)
    monkeypatch.setattr(component_configs, "_REDIRECTIONS", ())
    with pytest.raises(CheckpointError, match=OTHER):
        Checkpoint.open(trained).module("text_encoder")


def test_module_and_shell_have_the_config_that_is_checked(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained / "text_encoder/config.json"
    values = json.loads(path.read_text())
    path.with_name("config.4.0.0.json").write_text(json.dumps({**values, "relative_attention_max_distance": 3}))
    edited("text_encoder/config.json", configuration_files=["config.4.0.0.json"])(trained)
    monkeypatch.setattr(component_configs, "_REDIRECTIONS", ())
    for module in (Checkpoint.open(trained).module("text_encoder"), shell_of(trained, "text_encoder")):
        assert module.config.relative_attention_max_distance == values["relative_attention_max_distance"]
