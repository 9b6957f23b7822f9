import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from export.checkpoint.folder import Checkpoint
from export.to_onnx.latent_preview import fit_preview
from training.learn.vae_stage import vae_input
from training.world.clips import numbered_clip
from wan_t2v.latents import diffusion_from_vae
from wan_t2v.preview import PREVIEW_FILE, PreviewMap, png_from_picture
from wan_t2v.shapes import VideoShape


def test_the_picture_is_the_middle_latent_frame_through_the_map() -> None:
    latents = np.zeros((1, 2, 3, 1, 2), dtype=np.float32)
    latents[0, 0, 1, 0] = (1.0, -9.0)
    picture = PreviewMap(weights=[[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]], bias=[0.5, 0.2, 0.0]).picture(latents)
    assert picture.tolist() == [[[255, 51, 0], [0, 51, 0]]]


def test_a_picture_survives_as_png() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png_from_picture(picture))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), picture)


def test_the_map_is_read_as_it_was_written_and_its_absence_names_the_remedy(tmp_path: Path) -> None:
    written = PreviewMap(weights=[[0.1, 0.2, 0.3]], bias=[0.0, 0.0, 1.0])
    (tmp_path / PREVIEW_FILE).write_text(written.to_json())
    assert PreviewMap.read(tmp_path) == written
    with pytest.raises(FileNotFoundError, match="make export"):
        PreviewMap.read(tmp_path / "nowhere")


def likeness(shown: PreviewMap, checkpoint: Path, *, clips: int, split: Literal["train", "held_out"]) -> float:
    """Correlation of the pictures of clips' latents with the clips' own frames, reduced to the same size."""
    vae = Checkpoint.open(checkpoint).module("vae")
    pictures, small = [], []
    for index in range(clips):
        frames = numbered_clip(0, index, video=VideoShape(17, 64, 64), split=split).frames
        latents = vae.encode(vae_input(frames[None])).latent_dist.mode()
        normalised = diffusion_from_vae(latents, vae.config.latents_mean, vae.config.latents_std)
        pictures.append(shown.picture(normalised.numpy()))
        small.append(frames[8].reshape(8, 8, 8, 8, 3).mean((1, 3)))
    return float(np.corrcoef(np.ravel(pictures), np.ravel(small))[0, 1])


def test_the_installed_map_shows_held_out_clips(repository: Path, checkpoint: Path) -> None:
    shown = PreviewMap.read(repository / "text_to_video_stream/1")
    assert likeness(shown, checkpoint, clips=6, split="held_out") > 0.85


def test_a_map_is_fitted_to_clips(checkpoint: Path) -> None:
    frames = np.stack([numbered_clip(0, index, video=VideoShape(17, 64, 64)).frames for index in range(6)])
    fitted = fit_preview(Checkpoint.open(checkpoint).module("vae"), vae_input(frames))
    assert likeness(fitted, checkpoint, clips=6, split="train") > 0.85
