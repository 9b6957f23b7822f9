import pytest

from export.placement.cuda_pool import CACHE_SETS_IN_POOL, LEAST_POOL_BYTES
from export.placement.gpu_memory import (
    VaeEngine,
)
from tests.unit.export.placement.arrangements import asked, first_with
from wan_t2v.contract import STREAM, UNARY


@pytest.mark.parametrize("endpoints", [(UNARY,), (UNARY, STREAM)])
@pytest.mark.parametrize("size", ["480x832", "720x1280", "720x1280x161"])
@pytest.mark.parametrize("experts", ["bf16", "fp32"])
def test_the_pool_holds_everything_that_is_alive_at_once_and_holes(
    endpoints: tuple[str, ...], size: str, experts: str
) -> None:
    """Counted here tensor by tensor, for each endpoint: two passes of an expert, the VAE's call, the latents."""
    memory = asked(size, endpoints=endpoints, experts=experts)
    (shape,) = memory.profile.sizes
    value = {"bf16": 2, "fp32": 4}[experts]
    latents = 16 * ((shape.frames - 1) // 4 + 1) * (shape.height // 8) * (shape.width // 8)
    a_pass = 2 * latents * value + 512 * 4096 * value + 4
    frames = 4 * 3 * shape.height * shape.width * 4
    alive = 2 * a_pass + 2 * latents * value + 3 * latents * 4
    through, inside = (first_with(e, memory, "141") for e in (VaeEngine.TRITON_PLANS, VaeEngine.IN_PROCESS))
    assert inside.pool_bytes(0) >= max(2 * len(endpoints) * alive, LEAST_POOL_BYTES)
    caches = len(endpoints) * CACHE_SETS_IN_POOL * memory.largest_cache_set
    assert CACHE_SETS_IN_POOL > 3
    assert through.pool_bytes(0) >= caches + 2 * len(endpoints) * (alive + 2 * frames)
    for placement in (through, inside):
        pool = next(h for h in placement.memory_uses if h.component == "CUDA pool")
        assert pool.total == placement.pool_bytes(0) and pool.estimated == 0
