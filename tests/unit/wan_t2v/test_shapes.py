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
