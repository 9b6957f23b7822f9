"""Size of Triton's CUDA pool on each GPU: an upper bound of the tensors that are in it at one time.

The pool must never run out. A tensor that does not fit in it gets memory by `cudaMalloc`; where that fails too, the
Python backend (of 26.07 as well, `ExecuteBLSRequest` in python_be.cc) logs the failure, leaves the tensor out of the
list of handles that it sends, and the model's process indexes past the end of that list. So the pool is made for
everything that can be alive at once, holes included, and 4 GiB of each GPU stay free besides (gpus.py).
"""

from export.placement.gpu_memory import FP32, MIB, VALUE_BYTES, GpuMemory, elements

LEAST_POOL_BYTES = 512 * MIB
PASSES_AT_ONCE = 2  # guidance asks an expert twice at a time
# Of a clip's latents in FP32: the denoiser's answer, the copy that the VAE's process reads, and those for the caller.
LATENTS_ALIVE = 3
# Sets of caches that are alive during a call of `vae_decoder_next`, beside the plans' own bindings: the last answer,
# the server's copy of it as input, the answer that is being made.
CACHE_SETS_ALIVE = 3
# The pool takes the smallest free block that is large enough and merges free neighbours, so holes between tensors of
# one clip are never larger than what was freed there. One set more than are alive, and small tensors twice, cover them.
CACHE_SETS_IN_POOL = CACHE_SETS_ALIVE + 1
SMALL_TENSORS_IN_POOL = 2


def caches_in_pool(memory: GpuMemory) -> int:
    """Bytes of the VAE's caches in the pool of its GPU where it runs as Triton plans: a clip per endpoint."""
    return len(memory.profile.doors) * CACHE_SETS_IN_POOL * memory.largest_cache_set


def pool_bytes(memory: GpuMemory, *, vae_plans: bool) -> int:
    """The pool of one GPU in whole MiB; `vae_plans` says that the VAE runs there as Triton plans."""
    small = len(memory.profile.doors) * _small_tensors(memory, vae_plans=vae_plans)
    caches = caches_in_pool(memory) if vae_plans else 0
    return _whole_mib(max(LEAST_POOL_BYTES, SMALL_TENSORS_IN_POOL * small) + caches)


def _small_tensors(memory: GpuMemory, *, vae_plans: bool) -> int:
    """All tensors of one clip but the caches; answers twice, since Python may still hold those of the last call."""
    expert_inputs, velocity = _expert_call(memory)
    latents = max(elements(shape) for shape in memory.latents) * FP32
    alive = PASSES_AT_ONCE * (expert_inputs + 2 * velocity) + LATENTS_ALIVE * latents
    if vae_plans:
        chunk, frames = _vae_call(memory)
        alive += chunk + 2 * frames
    return alive


def _expert_call(memory: GpuMemory) -> tuple[int, int]:
    """Bytes of the inputs and of the answer of one pass, at the largest size."""
    value, architecture = VALUE_BYTES[memory.profile.experts], memory.architecture
    velocity = max(elements(shape) for shape in memory.latents) * value
    return velocity + architecture.text_length * architecture.expert.text_dim * value + FP32, velocity


def _vae_call(memory: GpuMemory) -> tuple[int, int]:
    """Bytes of the latents and of the frames of one call of `vae_decoder_next`, at the largest size."""
    value, vae = VALUE_BYTES[memory.profile.vae], memory.architecture.vae
    area = max(shape.height * shape.width for shape in memory.latents)
    pixels = 2 ** sum(vae.upsamples_time) * 4 ** len(vae.upsamples_time)
    return vae.latent_channels * area * value, 3 * pixels * area * value


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
