"""Trajectories are those of serving's loop, and each is computed once."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.distill import trajectories as module
from training.distill.trajectories import Teacher, Trajectories, trajectories_of
from training.world.prompts import fixed_prompts
from wan_t2v.shapes import LatentShape

SHAPE = LatentShape(16, 2, 4, 4)


class FakeTeacher:
    """Makes trajectories whose numbers are their index; `stops_at` plays a user who presses Ctrl-C."""

    steps, seed = 20, 0

    def __init__(self, stops_at: int | None = None, shape: LatentShape = SHAPE) -> None:
        self.stops_at, self.shape, self.asked = stops_at, shape, list[int]()

    def follow(self, indices: Sequence[int]) -> Trajectories:
        if self.stops_at in indices:
            raise KeyboardInterrupt
        self.asked += indices
        numbers = torch.tensor(indices, dtype=torch.float32)
        return Trajectories(numbers.view(-1, 1).expand(-1, 5), numbers.view(-1, 1))


def followed(folder: Path, teacher: Any, count: int = 10) -> Trajectories:
    return trajectories_of(teacher, folder, count=count)


def test_a_stopped_run_goes_on_with_the_part_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "TOGETHER", 2)
    with pytest.raises(KeyboardInterrupt):
        followed(tmp_path, FakeTeacher(stops_at=7))
    teacher = FakeTeacher()
    trajectories = followed(tmp_path, teacher)
    assert trajectories.states[:, 0].tolist() == trajectories.texts[:, 0].tolist() == [*range(10)]
    assert teacher.asked == [*range(4, 12)], "the first part was there, the last one is cut"


def test_latents_of_another_size_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "TOGETHER", 2)
    followed(tmp_path, FakeTeacher(), count=4)
    larger = FakeTeacher(shape=LatentShape(16, 2, 8, 8))
    followed(tmp_path, larger, count=4)
    assert larger.asked == [*range(4)]


def test_states_are_the_noise_and_the_latents_at_each_waypoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(modules: object, prompts: Sequence[str], **given: Any) -> None:
        for index in range(1, 21):
            given["after_step"](SimpleNamespace(index=index, latents=torch.full((2, *SHAPE), float(index))))

    monkeypatch.setattr(module, "generate_latents", generate)
    monkeypatch.setattr(module, "text_embeddings", lambda *given, captions: torch.zeros(len(captions), 1, 1))
    teacher = Teacher(SimpleNamespace(text_encoder=None, tokenizer=None), SHAPE, steps=20)  # type: ignore[arg-type]
    states = teacher.follow([3, 4]).states
    assert states.shape == (2, 5, *SHAPE)
    assert not torch.equal(states[0, 0], states[1, 0])
    marks = module.TeacherSchedule(20).marks
    assert [float(states[0, at].mean()) for at in range(1, 5)] == [float(mark) for mark in marks]


def test_no_held_out_prompt_is_a_caption_of_the_training() -> None:
    teacher = Teacher(None, SHAPE, steps=20)  # type: ignore[arg-type]
    assert not {prompt.text for prompt in fixed_prompts()} & set(teacher.captions(range(2000)))
