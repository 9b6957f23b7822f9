"""Embeddings and noise to clean latents: the denoising loop as a step of the unary door."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from wan_t2v.request import Settings
from wan_t2v.serving.answers import answered
from wan_t2v.serving.denoising import Denoising
from wan_t2v.serving.tensors import bytes_from_triton, text_to_triton, to_triton


class Denoiser:
    """The model `denoiser`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        # The solver's arithmetic on latents is too small to share; its idle threads would take cores from the experts.
        torch.set_num_threads(1)
        self._pb_utils = pb_utils
        self._denoising = Denoising(pb_utils, args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return answered(self._pb_utils, requests, self._answer)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._denoising.close()

    def _answer(self, request: Any) -> list[Any]:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        settings = Settings.from_json(bytes_from_triton(tensors["settings"]))
        latents, report = self._denoising.latents(tensors, settings, is_cancelled=request.is_cancelled)
        none = latents[:0]
        wanted = settings.output_type == "latents"
        return [
            to_triton(self._pb_utils, "latents_to_decode", none if wanted else latents),
            to_triton(self._pb_utils, "latents_to_return", latents if wanted else none),
            text_to_triton(self._pb_utils, "denoise_report", json.dumps(report)),
        ]
