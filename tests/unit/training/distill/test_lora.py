"""The LoRA beside an expert, its file, and the weights that are in the repository."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.checkpoint.folder import Checkpoint
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.lora.changes import changes_of
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.lora.lora_file import LoraFile
from training.distill.lora import RANK, add_lora, write_lora
from training.distill.stage import follow
from training.distill.trajectories import Teacher
from training.distill.waypoints import EXPERT_OF_STEP, STEPS, timestep_of
from training.learn.modules import new_expert
from training.learn.sampling import Modules, latent_shape
from training.pack import load_packed_modules
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.shapes import VideoShape

MOST_BYTES = 2_000_000  # both together: they live in the repository
FILES = ("high_noise.safetensors", "low_noise.safetensors")


@pytest.fixture(scope="module")
def weights(root: Path) -> Path:
    return root / "training/wan-mini-four-steps"


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


def test_the_weights_are_those_that_the_card_names(weights: Path, root: Path) -> None:
    card = (root / "training/MODEL_CARD.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.safetensors)` \| [\d,]+ bytes \| `(\w{64})` \|$", card, re.MULTILINE))
    assert rows == {name: sha256_of_file(weights / name) for name in FILES}
    assert all(f"{(weights / name).stat().st_size:,} bytes" in card for name in FILES)
    assert sum((weights / name).stat().st_size for name in FILES) < MOST_BYTES
    assert f"rank {RANK}" in card


def test_the_merged_experts_stay_near_the_teachers_trajectory_where_the_teacher_alone_does_not(
    weights: Path, checkpoint: Path, tmp_path: Path
) -> None:
    teacher = load_packed_modules(checkpoint)
    states, texts = _trajectory(teacher, Checkpoint.open(checkpoint))
    high, low = (str(weights / name) for name in FILES)
    merged = merge_loras(Checkpoint.open(checkpoint), LoraChoice(high, low), tmp_path / "merged")
    apart, apart_without = (_apart(modules, states, texts) for modules in (load_packed_modules(merged), teacher))
    assert all(with_lora < without for with_lora, without in zip(apart, apart_without, strict=True))
    assert apart[-1] < 0.5 * apart_without[-1]


def _trajectory(modules: Modules, checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """One that no training has seen."""
    size = VideoShape(*(int(checkpoint.defaults[name]["value"]) for name in ("num_frames", "height", "width")))
    followed = Teacher(modules, latent_shape(size), steps=20).follow([1_000_000])
    return followed.states, followed.texts


@torch.no_grad()
def _apart(modules: Modules, states: torch.Tensor, texts: torch.Tensor) -> list[float]:
    """Mean squared distance at each waypoint after four steps without guidance, each from where the last one ended."""
    latents, apart = states[:, 0], []
    for step in range(STEPS):
        expert = getattr(modules, EXPERT_OF_STEP[step])
        velocity = expert(latents, torch.tensor([timestep_of(step)]), texts, return_dict=False)[0]
        latents = follow(latents, velocity, step)
        apart.append((latents - states[:, step + 1]).square().mean().item())
    return apart
