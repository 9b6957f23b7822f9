from pathlib import Path

import pytest

from tests.fakes.programs import install_programs

OF_EACH_FORM = ("text_encoder", "high_noise_expert", "vae_decoder_first", "vae_decoder_next")


@pytest.fixture(scope="session")
def programs(root: Path, checkpoint: Path) -> Path:
    """Programs of wan-mini, `<graph>/1/model.pt2`, kept from run to run while they are current."""
    return install_programs(checkpoint, root / "build/test-programs", OF_EACH_FORM)
