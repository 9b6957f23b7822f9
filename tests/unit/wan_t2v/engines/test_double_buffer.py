"""Two sets of caches, however long the clip is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wan_t2v.engines.double_buffer import DoubleBufferedCaches
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.frames import decode_frames


class CountingEngine:
    """One cache, grown by one a call; keeps each call's cache, so that no memory is given out twice by chance."""

    def __init__(self) -> None:
        self.written: list[np.ndarray] = []

    def __call__(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        frames = inputs["cache_in_0"].sum()
        if outputs == ["frames"]:
            return {"frames": frames}
        cache = buffers["cache_out_0"] if buffers else np.empty_like(inputs["cache_in_0"])
        cache[:] = inputs["cache_in_0"] + 1
        self.written.append(cache)
        return {"frames": frames, "cache_out_0": cache}


def steps(engine: DoubleBufferedCaches, cache: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        state = engine({"cache_in_0": cache})
        cache = state["cache_out_0"]
        found.append(float(state["frames"]))
    return found


def test_a_clip_lives_in_two_sets_of_memory() -> None:
    counting = CountingEngine()
    assert steps(DoubleBufferedCaches(counting), np.zeros(3), 6) == [0, 3, 6, 9, 12, 15]
    assert len({cache.ctypes.data for cache in counting.written}) == 2


def test_two_clips_in_turn_do_not_touch_each_other() -> None:
    engine = DoubleBufferedCaches(CountingEngine())
    one, two = np.zeros(2), np.full(2, 100.0)
    for number in range(5):
        one, two = (engine({"cache_in_0": cache})["cache_out_0"] for cache in (one, two))
        assert (one.tolist(), two.tolist()) == ([number + 1] * 2, [number + 101] * 2)


def test_a_clip_of_another_size_gets_memory_of_its_own() -> None:
    engine = DoubleBufferedCaches(CountingEngine())
    steps(engine, np.zeros(3), 3)
    assert steps(engine, np.zeros(5), 3) == [0, 5, 10]


def test_the_last_call_lets_the_memory_go() -> None:
    engine = DoubleBufferedCaches(CountingEngine())
    steps(engine, np.zeros(3), 2)
    assert engine._spare
    engine({"cache_in_0": np.zeros(3)}, ["frames"])
    assert not engine._spare


@pytest.mark.parametrize("latent_frames_per_call", [1, 2])
def test_the_vae_gives_the_same_frames(repository: Path, latent_frames_per_call: int) -> None:
    facts = ModelFacts.read(repository / "vae_decoder/1")
    first, later = (
        OnnxRuntimeEngine(repository / name / "1/model.onnx", threads=1)
        for name in ("vae_decoder_first", "vae_decoder_next")
    )
    for size in (4, 6):
        latents = torch.randn(1, facts.grid.channels, 6, size, 4, generator=torch.Generator().manual_seed(size))
        plain, ping_pong = (
            torch.cat(list(decode_frames(latents, first, later_, latent_frames_per_call=latent_frames_per_call)))
            for later_ in (later, DoubleBufferedCaches(later))
        )
        assert torch.equal(plain, ping_pong)
