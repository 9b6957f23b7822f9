"""Progress bars of diffusers, which it shows even for files that load in milliseconds."""


def hide_progress_bars_of_diffusers() -> None:
    """Hide the bar of `from_pretrained`, which unlike transformers' ignores HF_HUB_DISABLE_PROGRESS_BARS."""
    import diffusers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
