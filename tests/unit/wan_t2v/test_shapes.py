import pytest

from wan_t2v.shapes import LatentGrid, LatentShape, VideoShape

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)


@pytest.mark.parametrize(
    ("video", "latents", "tokens"),
    [
        (VideoShape(81, 720, 1280), LatentShape(16, 21, 90, 160), 75_600),
        (VideoShape(81, 480, 832), LatentShape(16, 21, 60, 104), 32_760),
        (VideoShape(1, 16, 16), LatentShape(16, 1, 2, 2), 1),
    ],
)
def test_pixels_to_latents_and_back(video: VideoShape, latents: LatentShape, tokens: int) -> None:
    assert GRID.latent_shape(video) == latents
    assert GRID.video_shape(latents) == video
    assert GRID.tokens(video) == tokens
    assert latents.tensor_shape == (1, *latents)


def test_sizes_are_multiples_of_sixteen() -> None:
    assert GRID.size_multiple_px == 16


def test_a_clip_that_does_not_fit_the_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="79 is not a multiple of 4"):
        GRID.latent_shape(VideoShape(80, 720, 1280))


def test_a_size_is_height_width_and_frames_which_may_have_a_default() -> None:
    assert VideoShape.parse("720x1280x81") == VideoShape(frames=81, height=720, width=1280)
    assert VideoShape.parse("480x832", frames=81) == VideoShape(frames=81, height=480, width=832)
    assert VideoShape.parse("480x832x17", frames=81).frames == 17


@pytest.mark.parametrize(
    "text", ["", "720", "720x1280", "720x1280x81x1", "720x-1280x81", "720x1280x", "a٣x1x1", "7 20x1x1"]
)
def test_a_size_that_is_none_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="accepted: <height>x<width>x<frames>, such as 720x1280x81"):
        VideoShape.parse(text)
