"""The judge: right on clips with known answers, unmoved by wrong ones, and at chance against shuffled captions."""

import dataclasses

import numpy as np
import pytest

from training.judge.adherence import measure_adherence, score
from training.judge.attributes import Verdict, judge
from training.world.prompts import fixed_prompts
from training.world.render import Frames, render
from training.world.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, combinations, is_possible, place_scene
from wan_t2v.shapes import VideoShape

VIDEO = VideoShape(17, 64, 64)


def _scene(colour: str, shape: str, motion: str, **known: str) -> Scene:
    return place_scene(colour, shape, motion=motion, random=np.random.default_rng(1), **known)


def _blurred_and_noisy(frames: Frames) -> Frames:
    """About what a decoder of 25 dB leaves."""
    pixels = frames.astype(np.float32)
    for axis in (1, 2):
        pixels = (np.roll(pixels, 1, axis) + 2 * pixels + np.roll(pixels, -1, axis)) / 4
    noise = np.random.default_rng(0).normal(0.0, 12.0, frames.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_every_motion_is_recognised_with_every_shape(motion: str, speed: str) -> None:
    for shape in SHAPES:
        if is_possible(shape, motion):
            verdict = judge(render(_scene("red", shape, motion, speed=speed), VIDEO))
            assert verdict == Verdict("red", motion, shape)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_colour_is_recognised_on_every_background(background: str) -> None:
    for colour in COLOURS:
        verdict = judge(render(_scene(colour, "square", "left", background=background), VIDEO))
        assert verdict == Verdict(colour, "left", "square")


def test_blur_and_noise_do_not_change_the_verdict() -> None:
    for colour, shape, motion in list(combinations("held_out"))[::5]:
        verdict = judge(_blurred_and_noisy(render(_scene(colour, shape, motion), VIDEO)))
        assert verdict == Verdict(colour, motion, shape)


@pytest.mark.parametrize("video", [VideoShape(17, 128, 128), VideoShape(33, 96, 96), VideoShape(17, 64, 96)])
def test_the_verdict_does_not_depend_on_the_size(video: VideoShape) -> None:
    assert judge(render(_scene("green", "star", "up_right"), video)) == Verdict("green", "up_right", "star")


def test_a_clip_played_backwards_moves_the_other_way() -> None:
    for motion, reverse in (("left", "right"), ("down", "up"), ("growing", "shrinking"), ("up_left", "down_right")):
        frames = render(_scene("blue", "circle", motion), VIDEO)
        assert judge(frames[::-1]).motion == reverse


def test_a_still_clip_has_no_motion() -> None:
    frames = render(_scene("cyan", "triangle", "left"), VIDEO)
    assert judge(np.repeat(frames[8:9], 17, axis=0)) == Verdict("cyan", None, "triangle")


def test_an_empty_clip_and_noise_are_nothing_known() -> None:
    grey = np.full((17, 64, 64, 3), 120, np.uint8)
    assert judge(grey) == Verdict(None, None, None)
    noise = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3)).astype(np.uint8)
    assert judge(noise).shape is None
    assert judge(noise).motion is None


def test_an_unknown_shape_is_not_taken_for_a_known_one() -> None:
    ring = render(_scene("red", "circle", "left"), VIDEO)
    hole = render(dataclasses.replace(_scene("red", "circle", "left"), size=0.25), VIDEO)
    background = ring[0, 0, 0]
    ring[(hole != background).any(axis=-1)] = background
    assert judge(ring).shape is None


def test_a_perfect_generator_scores_one_and_chance_stays_low() -> None:
    prompts = fixed_prompts()
    scenes = {(prompt.text, prompt.seed): prompt.scene for prompt in prompts}
    adherence = measure_adherence(lambda text, seed: render(scenes[text, seed], VIDEO))
    assert (adherence.scores.colour, adherence.scores.motion, adherence.scores.shape) == (1.0, 1.0, 1.0)
    assert adherence.chance.colour == pytest.approx(1 / len(COLOURS), abs=0.03)
    assert adherence.chance.motion == pytest.approx(1 / len(MOTIONS), abs=0.03)
    assert adherence.chance.shape == pytest.approx(1 / len(SHAPES), abs=0.03)


def test_nothing_seen_scores_nothing() -> None:
    prompts = fixed_prompts(6)
    adherence = score([Verdict(None, None, None)] * len(prompts), prompts)
    assert adherence.as_line()["colour"] == adherence.as_line()["chance_motion"] == 0.0
