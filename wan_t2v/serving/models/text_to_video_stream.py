"""The streaming endpoint: a decoupled model that sends every step, stops on cancellation, and ends with an MP4.

It runs the same loop, decoding and encoding as the unary endpoint, so the same request gives the same bytes.
Many requests run at the same time, each in its own thread; their passes interleave in the experts' queues.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import MODELS, STREAM, STREAM_REQUEST
from wan_t2v.denoise import Step
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, ModelFacts, ServingDefaults
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.names import check_parameters
from wan_t2v.field_checks.ranges import RANGES
from wan_t2v.preview import PREVIEW_FILE, PreviewMap, png_from_picture
from wan_t2v.request import Settings
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.admission.running_generation import RunningGeneration
from wan_t2v.serving.loop.denoise_loop import DenoiseLoop
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.serving.models.mp4_encoder import encode_video, metadata
from wan_t2v.serving.models.request_fields import FieldChecks, field_value
from wan_t2v.serving.models.step_recorder import StepRecorder
from wan_t2v.serving.models.stream_request import CallerLiveness, StreamRequest
from wan_t2v.serving.models.stream_responses import DECODE, DENOISE, ENCODE, LOAD, PREPARE, ResponseStream
from wan_t2v.serving.models.stream_watch import StreamWatch
from wan_t2v.serving.models.vae_decoder import FIRST, NO_FRAMES, VaeDecoder
from wan_t2v.serving.published_limits import read_limits, read_served_sizes
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.python_backend.tensors import bytes_from_triton, text_to_triton, to_triton, unread
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.request_options import ADMITTED, LIMITS, PARAMETERS, RequestOptions
from wan_t2v.serving.resume.idempotency import TrustedProxy
from wan_t2v.serving.resume.resume import ResumableGenerations
from wan_t2v.serving.signed_settings import SettingsSigner
from wan_t2v.serving.started_pool import started_pool

_NAMES = tuple(field.name for field in STREAM_REQUEST)
_PREPARED = tuple(output.name for output in MODELS["prepare"].outputs)


class TextToVideoStream:
    """The model `text_to_video_stream`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        torch.set_num_threads(1)  # the work itself runs in the graphs' processes
        self._limits = limits = AdmissionLimits.of_model(parameters)
        self._run = run = server_run_directory(parameters)
        self._pb_utils = pb_utils
        check_model_files(parameters.version_folder, (PREVIEW_FILE,), graphs=(FIRST,))
        self._preview = PreviewMap.read(parameters.version_folder)
        beside = parameters.beside("prepare")
        check_model_files(beside, (DEFAULTS_FILE, FACTS_FILE), graphs=())
        self._defaults, self._grid = ServingDefaults.read(beside), ModelFacts.read(beside).grid
        self._prepare = TritonEngine(
            pb_utils, "prepare", read=unread, outputs=_PREPARED, parameters={ADMITTED: run.key()}
        )
        self._signer = SettingsSigner(run.key())
        self._loop = DenoiseLoop(pb_utils, args, at_once=limits.in_flight)
        self._decoder = VaeDecoder(pb_utils, args)
        self._resumable = ResumableGenerations.of_model(parameters)
        self._proxy = TrustedProxy.of_environment()
        self._metrics = Metrics(pb_utils, endpoint=STREAM)
        self._tracer = Tracer.of_process(parameters.model)
        self._admission = Admission(run, endpoint=STREAM, limits=limits)
        self._threads = started_pool(limits.in_flight + limits.queued, "generation")
        self._watch = StreamWatch(pb_utils, run, self._metrics)

    def execute(self, requests: Sequence[Any]) -> None:
        """Triton's entry point. It returns immediately; the threads send the responses."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._admit(request, sender)
            except Exception as error:
                self._end(ResponseStream(self._pb_utils, sender, ahead=int), error)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._watch.close()
        self._threads.shutdown(cancel_futures=True)
        self._loop.close()
        self._metrics.close()
        self._tracer.close()

    def _admit(self, request: Any, sender: Any) -> None:
        """Queue the request and give it a thread, or raise. Its idempotency key is locked from here to its end."""
        with contextlib.ExitStack() as until_refused:
            options = RequestOptions.from_triton(request, self._proxy)
            check_parameters(options.names, fields=_NAMES, parameters=(*PARAMETERS, LIMITS))
            if options.asks_for_limits:
                self._send_limits(request, sender)
                return
            work = Workload.of(self._check(request))
            checkpoint = until_refused.enter_context(self._resumable.lock(options.key))
            in_queue = QueueOptions.of(options, work, steps_done=checkpoint.steps_done if checkpoint else 0)
            ticket = self._admission.enter(in_queue)
            until_refused.callback(ticket.slot.free)
            stream = StreamRequest(
                request,
                options,
                ticket,
                CallerLiveness(sender.is_cancelled, in_queue),
                ResponseStream(self._pb_utils, sender, ahead=lambda: self._admission.ahead(ticket)),
                checkpoint,
                self._tracer.of_request(request),
            )
            until_refused.callback(self._watch.discard, stream.responses)
            self._metrics.count_admission()
            self._watch.add(stream.responses)
            held = until_refused.pop_all()
            until_refused.callback(held.close)
            self._threads.submit(self._serve, stream, held)
            until_refused.pop_all()

    def _check(self, request: Any) -> Settings:
        """Check the fields before the request takes a place in the queue. `prepare` checks and signs them in its turn.

        Raises InvalidField, and LimitsNotPublished before `prepare` has told which sizes are served.
        """
        inputs = {tensor.name(): tensor for tensor in request.inputs()}
        _preview_every(inputs.pop("preview_every", None))
        return FieldChecks(self._defaults, self._grid, read_served_sizes(self._run)).settings(inputs, fallback_seed=0)

    def _send_limits(self, request: Any, sender: Any) -> None:
        """Send the limits immediately, even while the server drains or all slots are taken."""
        if fields := [tensor.name() for tensor in request.inputs()]:
            raise InvalidField(LIMITS, f"true with {', '.join(fields)}", "true in a request without any field")
        document = {
            **read_limits(self._run),
            "requests": {"in_flight": self._limits.in_flight, "queued": self._limits.queued},
        }
        tensor = text_to_triton(self._pb_utils, "limits", json.dumps(document))
        ResponseStream(self._pb_utils, sender, ahead=int).send_end(None, [tensor])

    def _serve(self, stream: StreamRequest, held: contextlib.ExitStack) -> None:
        """Run one request from the queue to its final response. Without that one, a caller would wait for ever."""
        caller, responses = stream.caller, stream.responses
        try:
            with held, self._admission.turn(stream.ticket, caller.has_left) as turn:
                self._watch.look()
                left = responses.send_ahead(self._generate(stream, turn))
                self._end(responses, None, left)  # before the slot is freed, since a drain waits for slots
        except BaseException as error:
            if isinstance(error, Cancelled):
                self._metrics.observe_cancel(caller.seconds_since_there())
            self._end(responses, error)
        self._watch.look()

    def _end(self, responses: ResponseStream, error: BaseException | None, tensors: Sequence[Any] = ()) -> None:
        """Count the end, and send the final response.

        If Triton cannot take the response, such as because other answers have filled /dev/shm meanwhile, it has closed
        the stream all the same, and no other response can follow: the caller notices only that no heartbeat comes.
        """
        self._watch.discard(responses)
        self._metrics.count_end(error)
        try:
            responses.send_end(error, tensors)
        except self._pb_utils.TritonModelException as fault:
            self._pb_utils.Logger.log_warn(f"a final response could not be sent: {fault}")

    def _generate(self, stream: StreamRequest, turn: RunningGeneration) -> list[Any]:
        """Generate the final response's tensors, and send progress on the way."""
        inputs = {tensor.name(): tensor for tensor in stream.request.inputs()}
        preview_every = _preview_every(inputs.pop("preview_every", None))
        prepared = self._call_prepare(stream, inputs)
        settings = self._signer.read(bytes_from_triton(prepared["settings"])).settings
        with stream.stage(DENOISE):
            latents, denoised = self._loop.compute_latents(
                {**inputs, **prepared},
                settings,
                is_cancelled=stream.caller.has_left,
                after_step=self._step_sender(stream, settings, preview_every=preview_every, turn=turn),
                checkpoint=stream.checkpoint,
                loading=lambda: stream.responses.within_stage(LOAD),
            )
        reports = [json.loads(bytes_from_triton(prepared["prepare_report"])), denoised]
        return self._answer(latents, settings, reports=reports, stream=stream)

    def _call_prepare(self, stream: StreamRequest, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Call the model `prepare` with the fields, and return its outputs by name."""
        fields = {name: tensor.as_numpy() for name, tensor in inputs.items()}
        key = stream.options.key
        if key is not None:
            fields.setdefault("seed", np.array([key.seed], dtype=np.int64))
        with stream.stage(PREPARE):
            return self._prepare(fields)

    def _step_sender(
        self, stream: StreamRequest, settings: Settings, *, preview_every: int, turn: RunningGeneration
    ) -> Callable[[Step], None]:
        """Make the callback after each step: it sends the progress, and every `preview_every` steps a preview."""
        recorder = StepRecorder(self._metrics, stream.trace, turn)

        def send_step(step: Step) -> None:
            progress = recorder.record(step)
            shown = preview_every and step.index % preview_every == 0
            stream.responses.send_step(progress, settings.encoded(self._png_preview(step)) if shown else None)

        return send_step

    def _png_preview(self, step: Step) -> bytes:
        return png_from_picture(self._preview.picture(step.clean_estimate.float().cpu().numpy()))

    def _answer(
        self, latents: Tensor, settings: Settings, *, reports: list[dict[str, Any]], stream: StreamRequest
    ) -> list[Any]:
        """Decode and encode the requested output, and return the final response's tensors."""
        started = time.monotonic()
        frames, videos, has_left = NO_FRAMES, [], stream.caller.has_left
        if settings.output_type != "latents":
            with stream.stage(DECODE):
                frames = self._decoder.decode(latents, has_left)
        reports.append(self._decoder.report(started))
        started = time.monotonic()
        if settings.output_type == "mp4":
            with stream.stage(ENCODE):
                videos.append(encode_video(frames.numpy(), settings, is_cancelled=has_left))
        reports.append({"encode_ms": 1e3 * (time.monotonic() - started)})
        self._observe_stages(reports, frames=len(frames))
        wanted = {"frames": (frames, latents[:0]), "latents": (NO_FRAMES, latents), "mp4": (NO_FRAMES, latents[:0])}
        returned_frames, returned_latents = wanted[settings.output_type]
        return [
            text_to_triton(self._pb_utils, "video", *videos),
            to_triton(self._pb_utils, "frames", returned_frames),
            to_triton(self._pb_utils, "denoised_latents", returned_latents),
            text_to_triton(self._pb_utils, "metadata", json.dumps(metadata(settings, reports))),
        ]

    def _observe_stages(self, reports: Sequence[Mapping[str, Any]], *, frames: int) -> None:
        for report in reports:
            for key in report:
                if key.endswith("_ms"):
                    self._metrics.observe_stage(key.removesuffix("_ms"), report[key] / 1e3)
        self._metrics.count_frames(frames)


def _preview_every(tensor: Any | None) -> int:
    """Return the number of steps between previews, 0 for none. Raises InvalidField."""
    if tensor is None:
        return 0
    every = int(field_value("preview_every", tensor))
    RANGES["preview_every"].check("preview_every", every)
    return every
