"""Names, types and shapes of every tensor that callers, models and graphs exchange, defined once.

Tests hold the model repository's configs, the exported ONNX files, the server's code and the client to this table.
Standard library only: the client's tests and the documentation import it too.
"""

from dataclasses import dataclass
from enum import Enum


class Dtype(Enum):
    """Element types, by Triton's names. GRAPH stands for the precision of the exported graph (FP32, BF16, ...)."""

    BYTES = "BYTES"
    INT32 = "INT32"
    INT64 = "INT64"
    FP32 = "FP32"
    UINT8 = "UINT8"
    GRAPH = "GRAPH"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor. A dim is a fixed size or the name of a dynamic one; a batching model's batch axis is not listed."""

    name: str
    dtype: Dtype
    dims: tuple[int | str, ...] = (1,)
    optional: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A model of the repository. `batches`: whether its tensors have a batch axis before the listed dims."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batches: bool = False


VAE_CACHES = 32  # causal convolutions of the Wan2.1 VAE decoder that look back in time
CACHE_IN, CACHE_OUT = "cache_in_", "cache_out_"  # beginnings of the names of `vae_decoder_next`'s caches

LATENTS = (1, 16, "latent_frames", "latent_height", "latent_width")
NO_OR_ONE_LATENTS = ("clips", 16, "latent_frames", "latent_height", "latent_width")
EMBEDDINGS = ("prompts", "text_length", "text_dim")
FRAMES = ("frames", "height", "width", 3)

_REQUEST_FIELDS = (
    TensorSpec("prompt", Dtype.BYTES),
    TensorSpec("negative_prompt", Dtype.BYTES),
    TensorSpec("height", Dtype.INT32),
    TensorSpec("width", Dtype.INT32),
    TensorSpec("num_frames", Dtype.INT32),
    TensorSpec("num_inference_steps", Dtype.INT32),
    TensorSpec("guidance_scale", Dtype.FP32),
    TensorSpec("guidance_scale_2", Dtype.FP32),
    TensorSpec("flow_shift", Dtype.FP32),
    TensorSpec("solver", Dtype.BYTES),
    TensorSpec("step_profile", Dtype.BYTES),
    TensorSpec("step_cache", Dtype.FP32),
    TensorSpec("guidance_skip", Dtype.FP32),
    TensorSpec("seed", Dtype.INT64),
    TensorSpec("fps", Dtype.INT32),
    TensorSpec("latents", Dtype.FP32, NO_OR_ONE_LATENTS),
    TensorSpec("output_type", Dtype.BYTES),
    TensorSpec("video_encoding", Dtype.BYTES),
)
# All are optional, `prompt` too, so that `prepare` reports a missing one and not the ensemble scheduler.
REQUEST = tuple(TensorSpec(field.name, field.dtype, field.dims, optional=True) for field in _REQUEST_FIELDS)

# The output is not called `latents`: an ensemble has one tensor per name, and Triton 2.51 silently drops an output that
# is named like an input.
ANSWER = (
    TensorSpec("video", Dtype.BYTES, ("videos",)),
    TensorSpec("frames", Dtype.UINT8, FRAMES),
    TensorSpec("denoised_latents", Dtype.FP32, NO_OR_ONE_LATENTS),
    TensorSpec("metadata", Dtype.BYTES),
)

# The streaming endpoint has the unary endpoint's tensors and a few of its own.
STREAM_REQUEST = (*REQUEST, TensorSpec("preview_every", Dtype.INT32, optional=True))
STREAM_ANSWER = (
    *(TensorSpec(name, Dtype.BYTES) for name in ("progress", "preview", "heartbeat")),
    *ANSWER,
    TensorSpec("limits", Dtype.BYTES),  # sent alone, in reply to a request for the limits
)

_EXPERT = ModelSpec(
    inputs=(
        TensorSpec("hidden_states", Dtype.GRAPH, LATENTS[1:]),
        TensorSpec("timestep", Dtype.FP32, (1,)),
        TensorSpec("encoder_hidden_states", Dtype.GRAPH, ("text_length", "text_dim")),
    ),
    outputs=(TensorSpec("velocity", Dtype.GRAPH, LATENTS[1:]),),
    batches=True,
)


def cache_names(beginning: str, count: int = VAE_CACHES) -> tuple[str, ...]:
    """Name the caches that are inputs (CACHE_IN) or outputs (CACHE_OUT), in the order of the causal convolutions."""
    return tuple(f"{beginning}{index}" for index in range(count))


def cache_input_of(output: str) -> str:
    """Return the name of the input that reads the cache of this name of an output."""
    return CACHE_IN + output.removeprefix(CACHE_OUT)


def _caches(beginning: str) -> tuple[TensorSpec, ...]:
    dims = ("cache_channels", 2, "cache_height", "cache_width")
    return tuple(TensorSpec(name, Dtype.GRAPH, dims) for name in cache_names(beginning))


def _vae_graph(*, caches_in: bool) -> ModelSpec:
    return ModelSpec(
        inputs=(TensorSpec("latents", Dtype.GRAPH, LATENTS[1:]), *(_caches(CACHE_IN) if caches_in else ())),
        outputs=(TensorSpec("frames", Dtype.GRAPH, (3, "frames", "height", "width")), *_caches(CACHE_OUT)),
        batches=True,
    )


MODELS: dict[str, ModelSpec] = {
    "text_to_video": ModelSpec(REQUEST, ANSWER),
    "text_to_video_stream": ModelSpec(STREAM_REQUEST, STREAM_ANSWER),
    "prepare": ModelSpec(
        REQUEST,
        (
            TensorSpec("prompt_embeds", Dtype.GRAPH, EMBEDDINGS),
            TensorSpec("negative_prompt_embeds", Dtype.GRAPH, EMBEDDINGS),
            TensorSpec("settings", Dtype.BYTES),
            TensorSpec("prepare_report", Dtype.BYTES),
        ),
    ),
    "text_encoder": ModelSpec(
        (
            TensorSpec("input_ids", Dtype.INT64, ("text_length",)),
            TensorSpec("attention_mask", Dtype.INT64, ("text_length",)),
        ),
        (TensorSpec("text_embeddings", Dtype.GRAPH, ("text_length", "text_dim")),),
        batches=True,
    ),
    "denoiser": ModelSpec(
        (
            TensorSpec("prompt_embeds", Dtype.GRAPH, EMBEDDINGS),
            TensorSpec("negative_prompt_embeds", Dtype.GRAPH, EMBEDDINGS),
            TensorSpec("settings", Dtype.BYTES),
            TensorSpec("latents", Dtype.FP32, NO_OR_ONE_LATENTS, optional=True),
        ),
        (
            TensorSpec("latents_to_decode", Dtype.FP32, NO_OR_ONE_LATENTS),
            TensorSpec("latents_to_return", Dtype.FP32, NO_OR_ONE_LATENTS),
            TensorSpec("denoise_report", Dtype.BYTES),
        ),
    ),
    "high_noise_expert": _EXPERT,
    "low_noise_expert": _EXPERT,
    "vae_decoder": ModelSpec(
        (
            TensorSpec("latents_to_decode", Dtype.FP32, NO_OR_ONE_LATENTS),
            TensorSpec("settings", Dtype.BYTES),
        ),
        (
            TensorSpec("frames_to_encode", Dtype.UINT8, FRAMES),
            TensorSpec("frames_to_return", Dtype.UINT8, FRAMES),
            TensorSpec("decode_report", Dtype.BYTES),
        ),
    ),
    "vae_decoder_first": _vae_graph(caches_in=False),
    "vae_decoder_next": _vae_graph(caches_in=True),
    "mp4_encoder": ModelSpec(
        (
            TensorSpec("frames_to_encode", Dtype.UINT8, FRAMES),
            TensorSpec("settings", Dtype.BYTES),
            TensorSpec("prepare_report", Dtype.BYTES),
            TensorSpec("denoise_report", Dtype.BYTES),
            TensorSpec("decode_report", Dtype.BYTES),
        ),
        (TensorSpec("video", Dtype.BYTES, ("videos",)), TensorSpec("metadata", Dtype.BYTES)),
    ),
}

UNARY, STREAM = "text_to_video", "text_to_video_stream"
EXPERTS = ("high_noise_expert", "low_noise_expert")
VAE_DECODERS = ("vae_decoder_first", "vae_decoder_next")
GRAPHS = ("text_encoder", *EXPERTS, *VAE_DECODERS)
MODELS_OF_ENDPOINT: dict[str, tuple[str, ...]] = {
    UNARY: (UNARY, "prepare", "denoiser", "vae_decoder", "mp4_encoder", *GRAPHS),
    STREAM: (STREAM, "prepare", *GRAPHS),
}
"""Models that a server must load to serve only this endpoint."""
