"""Check of a checkpoint's own preview map, if it has one."""

from pathlib import Path

from export.checkpoint.config_file import CheckpointError, read_text
from wan_t2v.preview import PREVIEW_FILE, PreviewMap


def check_preview(folder: Path, *, channels: int) -> None:
    """Refuse a `latent_preview.json` that does not map the VAE's latents to colours. Raises CheckpointError."""
    path = folder / PREVIEW_FILE
    if not path.exists():
        return
    try:
        preview = PreviewMap.from_json(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is no preview map ({error}). Remove it, and a new one is fitted.") from None
    if len(preview.weights) != channels:
        raise CheckpointError(
            f"{path} is for latents of {len(preview.weights)} channels, the VAE's have {channels}. "
            "Remove it, and a new one is fitted."
        )
