"""Embeddings and noise to clean latents: the denoising loop as a step of the unary endpoint.

Each process runs one request at a time. Further ones wait in Triton's own queue, which rejects none. So `prepare`
admits the requests of this endpoint, and here they take the slots that it reserved.
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from wan_t2v.contract import UNARY
from wan_t2v.facts import ModelFacts
from wan_t2v.operate.load import LOOPS
from wan_t2v.operate.run_directory import FINISHING, IN_TRANSIT, SlotInfo
from wan_t2v.request import Settings
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.loop.cancellation_checks import ask_at_most_every
from wan_t2v.serving.loop.denoise_loop import DenoiseLoop
from wan_t2v.serving.models.step_recorder import StepRecorder
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.responses import respond_to_all
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.python_backend.tensors import bytes_from_triton, text_to_triton, to_triton
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.request_options import RequestOptions
from wan_t2v.serving.resume.idempotency import TrustedProxy
from wan_t2v.serving.resume.kept_steps import kept_steps
from wan_t2v.serving.resume.resume import ResumableGenerations
from wan_t2v.serving.signed_settings import SettingsSigner, check_shape

ASK_S = 0.25  # between questions to Triton whether the caller has cancelled


class Denoiser:
    """The model `denoiser`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        # The solver's arithmetic on latents is too small to share; its idle threads would take cores from the experts.
        torch.set_num_threads(1)
        parameters = ModelParameters.from_args(args)
        self._pb_utils = pb_utils
        self._facts = ModelFacts.read(parameters.version_folder)
        self._loop = DenoiseLoop(pb_utils, args)
        self._resumable = ResumableGenerations.of_model(parameters)
        self._proxy = TrustedProxy.of_environment()
        self._metrics = Metrics(pb_utils, endpoint=UNARY)
        self._tracer = Tracer.of_process(parameters.model)
        self._run = server_run_directory(parameters)
        self._signer = SettingsSigner(self._run.key())
        limits = AdmissionLimits.of_model(parameters)
        self._admission = Admission(self._run, endpoint=UNARY, limits=limits)
        with self._run.exclusive():
            self._run.clear(IN_TRANSIT, older_than_s=0.0)  # requests that waited for a dead process ended with it
            self._living = self._run.acquire(LOOPS, _loop_info())
            limits.publish(self._run)
            self._resumable.publish(self._run)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return respond_to_all(self._pb_utils, requests, self._answer_and_count)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._loop.close()
        self._metrics.close()
        self._living.free()
        self._tracer.close()

    def _answer_and_count(self, request: Any) -> list[Any]:
        self._report_work()
        error: BaseException | None = None
        try:
            return self._answer(request)
        except BaseException as failed:
            error = failed
            raise
        finally:
            self._report_work()
            self._metrics.count_end(error)

    def _report_work(self) -> None:
        """Tell `load_of` that this process has just started or ended work. A failed report must not cost the video."""
        with contextlib.suppress(OSError):
            self._living.report(_loop_info())

    def _answer(self, request: Any) -> list[Any]:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        generation = self._signer.read(bytes_from_triton(tensors["settings"]))
        settings = generation.settings
        self._check_shapes(tensors, settings)
        options = RequestOptions.from_triton(request, self._proxy)
        steps_done = kept_steps(self._run, options.key)
        in_queue = QueueOptions(Workload.of(settings), generation.deadline, options.priority, steps_done)

        # Triton hands a cancellation to an ensemble's next model only, and to ask is a call to the server's process.
        cancelled = ask_at_most_every(ASK_S, request.is_cancelled)

        def has_left() -> bool:
            return cancelled() or in_queue.is_late(time.monotonic())

        trace = self._tracer.of_request(request)
        ticket = self._admission.enter(in_queue, reserved_id=generation.id)
        with (
            self._admission.turn(ticket, has_left) as turn,
            self._resumable.lock(options.key) as checkpoint,
            trace.span("denoise"),
        ):
            recorder = StepRecorder(self._metrics, trace, turn)
            latents, report = self._loop.compute_latents(
                tensors, settings, is_cancelled=has_left, after_step=recorder.record, checkpoint=checkpoint
            )
            with contextlib.suppress(OSError):  # a mark that cannot be set must not cost the video
                self._run.mark(FINISHING, generation.id)
        self._metrics.observe_stage("denoise", report["denoise_ms"] / 1e3)
        none = latents[:0]
        returns_latents = settings.output_type == "latents"
        return [
            to_triton(self._pb_utils, "latents_to_decode", none if returns_latents else latents),
            to_triton(self._pb_utils, "latents_to_return", latents if returns_latents else none),
            text_to_triton(self._pb_utils, "denoise_report", json.dumps(report)),
        ]

    def _check_shapes(self, tensors: Mapping[str, Any], settings: Settings) -> None:
        """Check that the tensors' shapes belong to the signed settings. Raises InvalidField."""
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_shape(name, tensors[name].shape(), (1, self._facts.text_length, self._facts.text_dim))
        if "latents" in tensors:
            expected = self._facts.grid.latent_shape(settings.video_shape).tensor_shape
            check_shape("latents", tensors["latents"].shape(), expected)


def _loop_info() -> SlotInfo:
    """Report that this process has just started or ended work."""
    return SlotInfo(UNARY, reported_at=time.monotonic())
