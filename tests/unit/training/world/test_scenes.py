"""The generator: the same number gives the same clip, and held-out combinations never reach training."""

import itertools

import numpy as np
import pytest

from training.world.captions import caption
from training.world.clips import numbered_captions, numbered_clip, numbered_scene
from training.world.prompts import fixed_prompts
from training.world.scenes import COLOURS, MOTIONS, SHAPES, Scene, combinations, is_held_out, is_possible
from wan_t2v.shapes import VideoShape

VIDEO = VideoShape(5, 32, 32)


def _combination(scene: Scene) -> tuple[str, str, str]:
    return scene.colour, scene.shape, scene.motion


def test_the_same_number_gives_the_same_clip() -> None:
    first, again = (numbered_clip(3, 41, video=VIDEO) for _ in range(2))
    assert (first.scene, first.caption) == (again.scene, again.caption)
    assert np.array_equal(first.frames, again.frames)
    assert numbered_clip(4, 41, video=VIDEO).scene != first.scene


def test_a_held_out_combination_is_never_drawn_for_training() -> None:
    drawn = {_combination(numbered_scene(0, index, split="train")[0]) for index in range(5000)}
    assert not any(is_held_out(*combination) for combination in drawn)
    assert drawn == set(combinations("train")), "5000 draws reach every training combination"


def test_held_out_clips_hold_nothing_else() -> None:
    drawn = {_combination(numbered_scene(0, index, split="held_out")[0]) for index in range(300)}
    assert drawn <= set(combinations("held_out"))


def test_the_splits_share_nothing_and_leave_nothing_out() -> None:
    train, held_out = set(combinations("train")), set(combinations("held_out"))
    possible = {c for c in itertools.product(COLOURS, SHAPES, MOTIONS) if is_possible(c[1], c[2])}
    assert not train & held_out
    assert train | held_out == possible


def test_every_pair_of_words_still_occurs_in_training() -> None:
    train = list(combinations("train"))
    for colour, shape in itertools.product(COLOURS, SHAPES):
        assert any(c == colour and s == shape for c, s, _ in train)
    for colour, motion in itertools.product(COLOURS, MOTIONS):
        assert any(c == colour and m == motion for c, _, m in train)
    for shape, motion in itertools.product(SHAPES, MOTIONS):
        assert not is_possible(shape, motion) or any(s == shape and m == motion for _, s, m in train)


def test_every_fixed_prompt_is_held_out_and_asked_once() -> None:
    asked = [_combination(prompt.scene) for prompt in fixed_prompts()]
    assert all(is_held_out(*combination) for combination in asked)
    assert len(set(asked)) == len(asked)
    assert {c for c, _, _ in asked} == set(COLOURS)
    assert {s for _, s, _ in asked} == set(SHAPES)
    assert {m for _, _, m in asked} == set(MOTIONS)


@pytest.mark.parametrize("index", range(20))
def test_a_caption_names_colour_and_motion_and_fits_the_text_length(index: int) -> None:
    scene, random = numbered_scene(0, index, split="train")
    said = caption(scene, random)
    assert scene.colour in said
    assert len(said.split()) < 24


def test_one_scene_is_said_in_many_ways() -> None:
    assert len(set(numbered_captions(0, 7, count=30))) > 8


def test_clips_keep_their_size_and_type() -> None:
    clip = numbered_clip(0, 0, video=VideoShape(9, 48, 64))
    assert clip.frames.shape == (9, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
