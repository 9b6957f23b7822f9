"""Hide the libraries' progress bars, which they draw for files that load in milliseconds."""


def hide_progress_bars_of_diffusers() -> None:
    """Hide the bar of `from_pretrained`. transformers' obeys HF_HUB_DISABLE_PROGRESS_BARS, diffusers' does not."""
    import diffusers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
