"""Last step of the unary endpoint: frames to an MP4, and all steps' reports to one metadata object."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.mp4 import mp4_from_frames
from wan_t2v.operate.run_directory import FINISHING
from wan_t2v.request import Settings
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.responses import respond_to_all
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.python_backend.tensors import bytes_from_triton, numpy_from_triton, text_to_triton
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.signed_settings import Generation, SettingsSigner, check_shape

_REPORTS = ("prepare_report", "denoise_report", "decode_report")


class Mp4Encoder:
    """The model `mp4_encoder`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        self._pb_utils = pb_utils
        parameters = ModelParameters.from_args(args)
        self._run = server_run_directory(parameters)
        self._signer = SettingsSigner(self._run.key())
        self._tracer = Tracer.of_process(parameters.model)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return respond_to_all(self._pb_utils, requests, self._answer)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._tracer.close()

    def _answer(self, request: Any) -> list[Any]:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        generation = self._signer.read(bytes_from_triton(tensors["settings"]))
        try:
            with self._tracer.of_request(request).span("encode"):
                return self._encode(generation, tensors)
        finally:
            self._run.unmark(FINISHING, generation.id)  # set by the denoiser

    def _encode(self, generation: Generation, tensors: Mapping[str, Any]) -> list[Any]:
        started, settings = time.monotonic(), generation.settings
        videos = []
        if settings.output_type == "mp4":
            frames = numpy_from_triton(tensors["frames_to_encode"])
            check_shape("frames_to_encode", frames.shape, (*settings.video_shape, 3))
            videos = [encode_video(frames, settings)]
        reports = [json.loads(bytes_from_triton(tensors[name])) for name in _REPORTS]
        encode = {"encode_ms": 1e3 * (time.monotonic() - started)}
        return [
            text_to_triton(self._pb_utils, "video", *videos),
            text_to_triton(self._pb_utils, "metadata", json.dumps(metadata(settings, [*reports, encode]))),
        ]


def encode_video(
    frames: NDArray[np.uint8], settings: Settings, *, is_cancelled: Callable[[], bool] = lambda: False
) -> bytes:
    """Encode frames (T, H, W, 3) uint8 as the response's `video`: an MP4, or its base64. Raises Cancelled."""
    return settings.encoded(mp4_from_frames(frames, fps=settings.fps, is_cancelled=is_cancelled))


def metadata(settings: Settings, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the reports into the metadata of a video: effective settings, graphs, steps, milliseconds per stage."""
    graphs = {name: digest for report in reports for name, digest in report.get("graphs", {}).items()}
    stages = {key: round(value, 1) for report in reports for key, value in report.items() if key.endswith("_ms")}
    tokens = {name: reports[0][name] for name in ("prompt", "negative_prompt")}
    has_negative_pass = 2 in reports[1]["passes"]  # a guided request with guidance_skip=1 may have none
    return {
        "settings": asdict(settings),
        "tokens": tokens,
        "prompt_truncated": tokens["prompt"]["truncated"],
        "negative_prompt_ignored": bool(settings.negative_prompt) and not has_negative_pass,
        "steps": reports[1]["steps"],
        "timesteps": reports[1]["timesteps"],
        "passes": reports[1]["passes"],
        "passes_saved": reports[1]["passes_saved"],
        "resumed_after_step": reports[1].get("resumed_after_step", 0),
        "graphs": graphs,
        **({"loras": reports[1]["loras"]} if "loras" in reports[1] else {}),
        "stages_ms": stages,
        "versions": {name: version(name) for name in ("wan-t2v", "diffusers")},
    }
