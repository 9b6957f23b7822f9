"""The LoRA beside an expert, and its file."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from export.checkpoint.weights.safetensors_index import stored_tensors
from export.lora.changes import changes_of
from export.lora.lora_file import LoraFile
from training.distill.lora import add_lora, write_lora
from training.learn.modules import new_expert


def test_a_new_lora_changes_nothing_and_alone_is_trained() -> None:
    torch.manual_seed(0)
    expert = new_expert()
    given = torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 8, 192)
    before = expert(*given, return_dict=False)[0]
    factors = add_lora(expert)
    assert torch.allclose(expert(*given, return_dict=False)[0], before)
    trained = {id(parameter) for parameter in expert.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in factors.parameters()}


def test_the_exporter_reads_the_file_whole(tmp_path: Path, checkpoint: Path) -> None:
    factors = add_lora(new_expert())
    path = write_lora(factors, tmp_path / "high_noise.safetensors", about={})
    stored = stored_tensors(checkpoint, "transformer", links_allowed=True)
    changes = changes_of(LoraFile.open(path), "transformer", stored)
    linear = {name for name, tensor in stored.items() if len(tensor.shape) == 2 and name.endswith(".weight")}
    assert changes.keys() == linear
    assert {change.factor for each in changes.values() for change in each} == {1.0}
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
