from dataclasses import replace
from pathlib import Path

import pytest

from export.graphs.sizes import SizeError, is_trained, named_sizes
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape


@pytest.fixture(scope="module")
def mini(checkpoint: Path) -> ModelFacts:
    from export.checkpoint.folder import Checkpoint

    return Checkpoint.open(checkpoint).facts


@pytest.fixture(scope="module")
def a14b(mini: ModelFacts) -> ModelFacts:
    return replace(mini, text_length=512, text_dim=4096)


def test_a14b_has_a_closed_list(a14b: ModelFacts) -> None:
    named = "480x832,832x480,720x1280,1280x720,480x640,1280x1280"
    sizes = named_sizes(named, a14b)
    assert [f"{size.height}x{size.width}" for size in sizes] == named.split(",")
    assert {size.frames for size in sizes} == {81}
    assert [is_trained(size, a14b) for size in sizes] == [True] * 4 + [False] * 2
    with pytest.raises(SizeError, match=r"size '512x512', accepted: 480x832, .*480x640 \(untrained\), 1280x1280"):
        named_sizes("480x832,512x512", a14b)


def test_other_frame_counts_are_four_k_plus_one(a14b: ModelFacts) -> None:
    assert named_sizes("480x832x49", a14b) == (VideoShape(49, 480, 832),)
    assert not is_trained(VideoShape(49, 480, 832), a14b)
    with pytest.raises(SizeError, match=r"80 frames, accepted: 4k\+1"):
        named_sizes("480x832x80", a14b)


def test_another_checkpoint_takes_what_its_grid_divides(mini: ModelFacts) -> None:
    assert named_sizes("128x192x17", mini) == (VideoShape(17, 128, 192),)
    with pytest.raises(SizeError, match="'128x100x17', accepted: height and width in multiples of 16"):
        named_sizes("128x100x17", mini)


@pytest.mark.parametrize("text", ["", "480", "480x832x81x2", "480xx81", "a x b", "480x832,"])
def test_what_is_no_size_is_refused(text: str, a14b: ModelFacts) -> None:
    with pytest.raises(SizeError, match="accepted: <height>x<width>"):
        named_sizes(text, a14b)


def test_a_size_named_twice_is_refused(a14b: ModelFacts) -> None:
    with pytest.raises(SizeError, match="one is named twice"):
        named_sizes("480x832,480x832x81", a14b)
