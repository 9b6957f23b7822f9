import pytest
import torch


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device, or the reason why there is nothing to check."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is False")
    return "cuda:0"
