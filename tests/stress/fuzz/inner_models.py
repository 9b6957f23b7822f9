"""Direct calls of the inner models, past the two endpoints: unsigned, forged, or with shapes that are not served.

Each must be refused, and none may leave a mark, remove another clip's mark, or count as a failure of the server.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tritonclient.grpc

from tests.server.calls import inputs
from tests.stress.fuzz.bad_requests import CLASSES, Bad, Sent, request
from wan_t2v.contract import VAE_CACHES
from wan_t2v.request import Settings
from wan_t2v.serving.signed_settings import Generation, SettingsSigner

TEXT_LENGTH, TEXT_DIM = 64, 192  # of wan-mini
LATENT = (1, 16, 1, 4, 4)  # of a frame of 32x32
CHANNELS = {"first": 1, "next": 2}
SETTINGS = Settings("a red ball", "", 32, 32, 1, 1, 4.0, 3.0, 3.0, 1, 16, "mp4", "raw")
REPORT = json.dumps({"graphs": {}, "steps": {}, "timesteps": [], "prompt": {"tokens": 1, "truncated": False}})


@dataclass(frozen=True)
class InnerCall:
    """A call of one inner model."""

    model: str
    bad: Bad


Draw = Callable[[np.random.Generator, bytes], InnerCall]
"""Draws a call. The bytes are settings that this server's `prepare` signed for one frame of 32x32."""


def signed_settings(url: str) -> bytes:
    """Call `prepare`, and return its signed settings. The call holds a slot for five seconds."""
    fields = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1, "seed": 1}
    with tritonclient.grpc.InferenceServerClient(url) as client:
        return bytes(client.infer("prepare", inputs(fields)).as_numpy("settings")[0])


def text(value: str | bytes) -> Sent:
    """Return a BYTES tensor with one element."""
    array = np.empty(1, dtype=np.object_)
    array[0] = value.encode() if isinstance(value, str) else value
    return Sent("BYTES", array)


def zeros(*shape: int, datatype: str = "FP32") -> Sent:
    """Return a tensor of zeros."""
    return Sent(datatype, np.zeros(shape, {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8}[datatype]))


def denoiser(settings: str | bytes, **changed: Sent) -> InnerCall:
    """Return a call of the denoiser for one frame of 32x32, with changed tensors."""
    embeds = {name: zeros(1, TEXT_LENGTH, TEXT_DIM) for name in ("prompt_embeds", "negative_prompt_embeds")}
    return InnerCall("denoiser", Bad(embeds | {"settings": text(settings)} | changed))


def decoder(settings: str | bytes, latents: Sent) -> InnerCall:
    """Return a call of `vae_decoder`."""
    return InnerCall("vae_decoder", Bad({"latents_to_decode": latents, "settings": text(settings)}))


def encoder(settings: str | bytes, frames: Sent) -> InnerCall:
    """Return a call of `mp4_encoder`."""
    reports = {f"{step}_report": text(REPORT) for step in ("prepare", "denoise", "decode")}
    return InnerCall("mp4_encoder", Bad({"frames_to_encode": frames, "settings": text(settings), **reports}))


def expert(random: np.random.Generator, hidden_states: Sent, embeddings: Sent | None = None) -> InnerCall:
    """Return a call of a random expert."""
    model = str(random.choice(["high_noise_expert", "low_noise_expert"]))
    rows = hidden_states.array.shape[0]
    tensors = {"hidden_states": hidden_states, "timestep": zeros(rows, 1)}
    tensors["encoder_hidden_states"] = embeddings or zeros(rows, TEXT_LENGTH, TEXT_DIM)
    return InnerCall(model, Bad(tensors))


def encoded_text(length: int, *, mask_length: int | None = None, token: int = 1) -> InnerCall:
    """Return a call of the text encoder."""
    ids = Sent("INT64", np.full((1, length), token, np.int64))
    mask = zeros(1, mask_length or length, datatype="INT64")
    return InnerCall("text_encoder", Bad({"input_ids": ids, "attention_mask": mask}))


def graph_of_decoder(name: str, latents: Sent, cache_size: int = 4) -> InnerCall:
    """Return a call of one of the decoder's graphs, with caches of a given size."""
    caches = {f"cache_in_{index}": zeros(1, 4, 2, cache_size, cache_size) for index in range(VAE_CACHES)}
    return InnerCall(name, Bad({"latents": latents, **(caches if name.endswith("next") else {})}))


def _unsigned(random: np.random.Generator) -> bytes:
    """Draw settings without a valid signature: of another form, or with a random signature."""
    nested = b"[" * int(random.integers(2000, 60_000))
    steps = json.dumps({"signed": SETTINGS.to_json(), "signature": secrets.token_hex(32), "steps": 200_000})
    texts = [b"", b"{}", b"null", b"\xff\xfe", SETTINGS.to_json().encode(), nested, steps.encode(), b"x" * (5 * 2**20)]
    return texts[int(random.integers(len(texts)))]


def _of_another_run(random: np.random.Generator) -> bytes:
    return SettingsSigner(random.bytes(16).hex()).sign(Generation.of(SETTINGS)).encode()


def _altered(random: np.random.Generator, signed: bytes) -> bytes:
    """Return signed settings with a changed number of steps."""
    outer = json.loads(signed)
    inner = json.loads(outer["signed"])
    settings = json.loads(inner["settings"])
    settings["num_inference_steps"] = int(random.integers(2, 200_000))
    outer["signed"] = json.dumps({**inner, "settings": json.dumps(settings)})
    return json.dumps(outer).encode()


def _other_frame(random: np.random.Generator) -> tuple[int, ...]:
    """Draw a shape of latents that is not that of a frame of 32x32."""
    return (1, 16, int(random.integers(2, 6)), int(random.integers(1, 40)), 4)


def _beyond(random: np.random.Generator) -> tuple[int, ...]:
    """Draw a shape of latents that exceeds 256x256x81 in one dimension."""
    return [(1, 16, 22, 4, 4), (1, 16, 1, 34, 4), (1, 16, 1, 4, 200)][int(random.integers(3))]


def _to_each_step(draw: Callable[[np.random.Generator, bytes], bytes]) -> Draw:
    def call(random: np.random.Generator, signed: bytes) -> InnerCall:
        settings = draw(random, signed)
        calls = [
            denoiser(settings),
            decoder(settings, zeros(*LATENT)),
            encoder(settings, zeros(1, 32, 32, 3, datatype="UINT8")),
        ]
        return calls[int(random.integers(len(calls)))]

    return call


def _bad_field(random: np.random.Generator, signed: bytes) -> InnerCall:
    """Call `prepare` with a request that both endpoints refuse as well."""
    names = list(CLASSES)
    return InnerCall("prepare", CLASSES[names[int(random.integers(len(names)))]](random))


INNER_CLASSES: dict[str, Draw] = {
    "prepare: a bad request": _bad_field,
    "prepare: a field as a parameter": lambda random, signed: InnerCall("prepare", Bad(request(), {"seed": 7})),
    "a step: unsigned settings": _to_each_step(lambda random, signed: _unsigned(random)),
    "a step: settings of another run": _to_each_step(lambda random, signed: _of_another_run(random)),
    "a step: signed settings, altered": _to_each_step(_altered),
    "denoiser: latents of another size": lambda random, signed: denoiser(signed, latents=zeros(*_other_frame(random))),
    "denoiser: other embeddings": lambda random, signed: denoiser(
        signed, prompt_embeds=zeros(1, int(random.integers(1, 60)), TEXT_DIM)
    ),
    "denoiser: embeddings for several": lambda random, signed: denoiser(
        signed, negative_prompt_embeds=zeros(int(random.integers(2, 9)), TEXT_LENGTH, TEXT_DIM)
    ),
    "vae_decoder: latents of another size": lambda random, signed: decoder(signed, zeros(*_other_frame(random))),
    "vae_decoder: no latents": lambda random, signed: decoder(signed, zeros(0, 16, 1, 4, 4)),
    "mp4_encoder: frames of another size": lambda random, signed: encoder(
        signed, zeros(int(random.integers(2, 9)), 16 * int(random.integers(1, 9)), 32, 3, datatype="UINT8")
    ),
    "mp4_encoder: no frames": lambda random, signed: encoder(signed, zeros(0, 32, 32, 3, datatype="UINT8")),
    "expert: latents beyond what is served": lambda random, signed: expert(random, zeros(*_beyond(random))),
    "expert: longer text": lambda random, signed: expert(
        random, zeros(*LATENT), zeros(1, int(random.integers(65, 2000)), TEXT_DIM)
    ),
    "expert: other embeddings": lambda random, signed: expert(
        random, zeros(*LATENT), zeros(1, TEXT_LENGTH, int(random.integers(1, 190)))
    ),
    "expert: several clips": lambda random, signed: expert(
        random, zeros(int(random.integers(2, 5)), *LATENT[1:])
    ),
    "expert: latents that no patch divides": lambda random, signed: expert(random, zeros(1, 16, 1, 3, 5)),
    "expert: no latents": lambda random, signed: expert(random, zeros(1, 16, 0, 4, 4)),
    "text_encoder: longer text": lambda random, signed: encoded_text(int(random.integers(65, 5000))),
    "text_encoder: another mask": lambda random, signed: encoded_text(
        TEXT_LENGTH, mask_length=int(random.integers(1, 63))
    ),
    "text_encoder: a token that there is not": lambda random, signed: encoded_text(
        TEXT_LENGTH, token=int(random.integers(10**6, 10**12))
    ),
    "vae_decoder_first: latents beyond what is served": lambda random, signed: graph_of_decoder(
        "vae_decoder_first", zeros(1, 16, 1, int(random.integers(33, 200)), 4)
    ),
    "vae_decoder_first: more latent frames than a call takes": lambda random, signed: graph_of_decoder(
        "vae_decoder_first", zeros(1, 16, int(random.integers(6, 100)), 4, 4)
    ),
    "vae_decoder_next: latents beyond what is served": lambda random, signed: graph_of_decoder(
        "vae_decoder_next", zeros(1, 16, 1, int(random.integers(33, 200)), 4)
    ),
    "vae_decoder_next: foreign caches": lambda random, signed: graph_of_decoder(
        "vae_decoder_next", zeros(1, 16, 1, 4, 4), int(random.integers(5, 300))
    ),
}  # fmt: skip
