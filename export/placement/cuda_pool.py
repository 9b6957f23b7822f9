"""Size of Triton's CUDA memory pool per GPU: an upper bound of the tensors that are in it at any time.

The pool must never run out. Triton allocates a tensor that does not fit with `cudaMalloc`. If that fails too, the
Python backend (26.07's too: `ExecuteBLSRequest` in python_be.cc) logs the failure and leaves the tensor out of the list
of handles that it sends, and the model's process indexes past the end of that list. The pool is therefore sized for
everything that can be alive at once, fragmentation included. Another 4 GiB of each GPU stay free (gpus.py).
"""

from export.placement.gpu_memory import FP32, MIB, VALUE_BYTES, GpuMemory, elements, whole_mib

LEAST_POOL_BYTES = 512 * MIB
PASSES_AT_ONCE = 2  # the two guidance passes call the expert concurrently
# Copies of a clip's FP32 latents: the denoiser's response, the VAE process's input, and the output for the caller.
LATENTS_ALIVE = 3
# Cache sets that are alive during a call of `vae_decoder_next`, beside the plans' own bindings: the last response, the
# server's copy of it as input, and the response being computed.
CACHE_SETS_ALIVE = 3
# The pool takes the smallest free block that is large enough and merges free neighbours, so a gap between tensors of
# one clip is never larger than what was freed there. One extra cache set, and small tensors counted twice, cover gaps.
CACHE_SETS_IN_POOL = CACHE_SETS_ALIVE + 1
SMALL_TENSORS_IN_POOL = 2


def caches_in_pool(memory: GpuMemory) -> int:
    """Return the bytes of VAE caches in the pool if Triton runs the VAE's plans: one clip per endpoint."""
    return len(memory.profile.endpoints) * CACHE_SETS_IN_POOL * memory.largest_cache_set


def pool_bytes(memory: GpuMemory, *, vae_plans: bool) -> int:
    """Return the bytes of one GPU's pool, rounded up to MiB. `vae_plans`: Triton runs the VAE's plans on this GPU."""
    small = len(memory.profile.endpoints) * _small_tensors(memory, vae_plans=vae_plans)
    caches = caches_in_pool(memory) if vae_plans else 0
    return whole_mib(max(LEAST_POOL_BYTES, SMALL_TENSORS_IN_POOL * small) + caches)


def _small_tensors(memory: GpuMemory, *, vae_plans: bool) -> int:
    """Return the bytes of one clip's tensors without caches.

    Responses count twice, since Python may still hold those of the last call.
    """
    expert_inputs, velocity = _expert_call(memory)
    latents = max(elements(shape) for shape in memory.latents) * FP32
    alive = PASSES_AT_ONCE * (expert_inputs + 2 * velocity) + LATENTS_ALIVE * latents
    if vae_plans:
        chunk, frames = _vae_call(memory)
        alive += chunk + 2 * frames
    return alive


def _expert_call(memory: GpuMemory) -> tuple[int, int]:
    """Return the bytes of the inputs and of the velocity of one expert call, at the largest size."""
    value, architecture = VALUE_BYTES[memory.profile.experts], memory.architecture
    velocity = max(elements(shape) for shape in memory.latents) * value
    return velocity + architecture.text_length * architecture.expert.text_dim * value + FP32, velocity


def _vae_call(memory: GpuMemory) -> tuple[int, int]:
    """Return the bytes of the latents and of the frames of one `vae_decoder_next` call, at the largest size."""
    value, vae = VALUE_BYTES[memory.profile.vae], memory.architecture.vae
    area = max(shape.height * shape.width for shape in memory.latents)
    pixels = 2 ** sum(vae.upsamples_time) * 4 ** len(vae.upsamples_time)
    return vae.latent_channels * area * value, 3 * pixels * area * value
