"""The graph of the decoder that `make export` left, called with shapes of no clip."""

from pathlib import Path

import numpy as np
import pytest

from wan_t2v.contract import VAE_CACHES
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.field_checks.invalid_field import InvalidField


@pytest.fixture(scope="module")
def decoder(repository: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(repository / "vae_decoder_next/1/model.onnx", threads=1)


@pytest.mark.parametrize("size", [4, 5, 32])
def test_caches_of_another_clip_are_refused_by_name(decoder: OnnxRuntimeEngine, size: int) -> None:
    caches = {f"cache_in_{index}": np.zeros((1, 4, 2, size, size), np.float32) for index in range(VAE_CACHES)}
    with pytest.raises(InvalidField, match=r"cache_in_0: got shape \[1, 4, 2, .*latent_height"):
        decoder({"latents": np.zeros((1, 16, 1, 4, 4), np.float32), **caches})
