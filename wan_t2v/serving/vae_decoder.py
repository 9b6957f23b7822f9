"""Clean latents to frames: the causal VAE decoder, a few latent frames a call."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import MODELS
from wan_t2v.facts import ModelFacts
from wan_t2v.frames import decoded_frames
from wan_t2v.latents import vae_from_diffusion
from wan_t2v.request import Settings
from wan_t2v.serving.answers import answered
from wan_t2v.serving.parameters import ModelParameters, graph_identity
from wan_t2v.serving.remote import RemoteEngine
from wan_t2v.serving.tensors import bytes_from_triton, text_to_triton, to_triton, torch_from_triton

FIRST = "vae_decoder_first"
NEXT = "vae_decoder_next"


class VaeDecoder:
    """The model `vae_decoder`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        torch.set_num_threads(1)  # the decoding itself runs in the graphs' processes
        self._pb_utils = pb_utils
        self._facts = ModelFacts.read(parameters.version_folder)
        self._first, self._next = (self._graph(name) for name in (FIRST, NEXT))
        self._latent_frames_per_call = parameters.integer("latent_frames_per_call", least=1)
        self._identities = {name: graph_identity(parameters, name) for name in (FIRST, NEXT)}

    def _graph(self, name: str) -> RemoteEngine:
        outputs = [output.name for output in MODELS[name].outputs]
        return RemoteEngine(self._pb_utils, name, read=torch_from_triton, outputs=outputs)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return answered(self._pb_utils, requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        started = time.monotonic()
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        settings = Settings.from_json(bytes_from_triton(tensors["settings"]))
        nothing = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
        frames = nothing
        if settings.output_type != "latents":
            frames = self._decoded(request, torch_from_triton(tensors["latents_to_decode"]))
        report = {"graphs": self._identities, "decode_ms": 1e3 * (time.monotonic() - started)}
        encode = settings.output_type == "mp4"
        return [
            to_triton(self._pb_utils, "frames_to_encode", frames if encode else nothing),
            to_triton(self._pb_utils, "frames_to_return", nothing if encode else frames),
            text_to_triton(self._pb_utils, "decode_report", json.dumps(report)),
        ]

    def _decoded(self, request: Any, latents: Tensor) -> Tensor:
        scaled = vae_from_diffusion(latents, self._facts.latents_mean, self._facts.latents_std)
        pieces = []
        for piece in decoded_frames(
            scaled, self._first, self._next, latent_frames_per_call=self._latent_frames_per_call
        ):
            pieces.append(piece.cpu())
            if request.is_cancelled():
                raise Cancelled(f"cancelled after {sum(len(p) for p in pieces)} decoded frames")
        return torch.cat(pieces)
