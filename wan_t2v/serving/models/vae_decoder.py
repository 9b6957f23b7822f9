"""Clean latents to frames: the causal VAE decoder, a few latent frames per call."""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import MODELS, VAE_DECODERS
from wan_t2v.engines.by_size import EngineByShape, EngineByVersion, version_of_size
from wan_t2v.engines.double_buffer import DoubleBufferedCaches
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.loader import ENGINES, GRAPH_FILES
from wan_t2v.facts import FACTS_FILE, ModelFacts
from wan_t2v.frames import decode_frames
from wan_t2v.latents import vae_from_diffusion
from wan_t2v.operate.run_directory import FINISHING
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.serving.models.graph import engine_settings, installed_precisions, load_installed_engine
from wan_t2v.serving.models.latent_frames import LATENT_FRAMES_PER_CALL, check_any_form
from wan_t2v.serving.python_backend.graph_types import GRAPH_TYPES
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.parameters import ModelParameters, graph_identity, instance_device
from wan_t2v.serving.python_backend.responses import respond_to_all
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.python_backend.tensors import bytes_from_triton, text_to_triton, to_triton, torch_from_triton
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.signed_settings import Generation, SettingsSigner, check_shape

FIRST, NEXT = VAE_DECODERS
LOCATIONS = ("triton", "in_process")
NO_FRAMES = torch.empty(0, 0, 0, 3, dtype=torch.uint8)


class VaeDecoder:
    """The model `vae_decoder`.

    By default (`engine_location` `triton`) it calls the two graphs as models. With `in_process` they are engines in
    this process (plans or torch), which hold two sets of caches; calls through the server hold more. `vae_precision` is
    what the graphs compute in, by default `fp32`: it is the type of their inputs, and of the caches that come back.
    """

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        self._tracer = Tracer.of_process(parameters.model)
        self._run = server_run_directory(parameters)
        self._signer = SettingsSigner(self._run.key())
        torch.set_num_threads(1)  # frames to bytes is little work; the graphs' engines set their own threads
        self._pb_utils = pb_utils
        check_model_files(parameters.version_folder, (FACTS_FILE,), graphs=VAE_DECODERS)
        self._facts = ModelFacts.read(parameters.version_folder)
        self._type = GRAPH_TYPES[_precision(parameters, instance_device(args))]
        self._first, self._next = self._graphs(parameters, instance_device(args))
        self._latent_frames_per_call = parameters.integer(LATENT_FRAMES_PER_CALL, least=1)
        self._identities = {name: graph_identity(parameters, name) for name in VAE_DECODERS}

    def _graphs(self, parameters: ModelParameters, device: str) -> tuple[Engine, Engine]:
        if not _in_this_process(parameters):
            for name in VAE_DECODERS:
                check_any_form(parameters, parameters.beside(name))
            versions = version_of_size(parameters.optional_video_shapes("version_sizes"), self._facts)
            return self._remote(FIRST, versions), self._remote(NEXT, versions)
        first, later = (_load(parameters, name, device) for name in VAE_DECODERS)
        # torch ignores `buffers`, so a spare set of caches would be a third one.
        writes_into_buffers = engine_settings(parameters, device).engine != "torch"
        return first, DoubleBufferedCaches(later) if writes_into_buffers else later

    def _remote(self, name: str, versions: Mapping[tuple[int, int], int]) -> Engine:
        """Make an Engine that calls a graph: its newest version, or with `versions` the one for the latents' size."""
        outputs = [output.name for output in MODELS[name].outputs]
        remote = functools.partial(TritonEngine, self._pb_utils, name, read=torch_from_triton, outputs=outputs)
        if not versions:
            return remote()
        return EngineByVersion({size: remote(version=version) for size, version in versions.items()})

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
            with self._tracer.of_request(request).span("decode"):
                return self._decode(generation, tensors["latents_to_decode"], request.is_cancelled)
        except Exception:
            self._run.unmark(FINISHING, generation.id)  # `mp4_encoder`, which would do it, is not called now
            raise

    def _decode(self, generation: Generation, latents: Any, is_cancelled: Callable[[], bool]) -> list[Any]:
        started, settings = time.monotonic(), generation.settings
        frames = NO_FRAMES
        if settings.output_type != "latents":
            expected = self._facts.grid.latent_shape(settings.video_shape).tensor_shape
            check_shape("latents_to_decode", latents.shape(), expected)
            frames = self.decode(torch_from_triton(latents), is_cancelled)
        encode = settings.output_type == "mp4"
        return [
            to_triton(self._pb_utils, "frames_to_encode", frames if encode else NO_FRAMES),
            to_triton(self._pb_utils, "frames_to_return", NO_FRAMES if encode else frames),
            text_to_triton(self._pb_utils, "decode_report", json.dumps(self.report(started))),
        ]

    def decode(self, latents: Tensor, is_cancelled: Callable[[], bool]) -> Tensor:
        """Decode normalised latents (1, C, F, h, w) to frames (T, H, W, 3) uint8 on the CPU. Raises Cancelled."""
        scaled = vae_from_diffusion(latents, self._facts.latents_mean, self._facts.latents_std).to(self._type)
        pieces = []
        for piece in decode_frames(
            scaled, self._first, self._next, latent_frames_per_call=self._latent_frames_per_call
        ):
            pieces.append(piece.cpu())
            if is_cancelled():
                raise Cancelled(f"cancelled after {sum(len(p) for p in pieces)} decoded frames")
        return torch.cat(pieces)

    def report(self, started: float) -> dict[str, Any]:
        """Report a decoding that began at `started` on the steady clock, for the metadata."""
        return {"graphs": self._identities, "decode_ms": 1e3 * (time.monotonic() - started)}


def _in_this_process(parameters: ModelParameters) -> bool:
    return parameters.choice("engine_location", LOCATIONS, LOCATIONS[0]) == "in_process"


def _precision(parameters: ModelParameters, device: str) -> str:
    """Return the graphs' precision. Raises ParameterError for one in which they are not installed.

    The config decides which engine runs them as models, and models cannot read each other's configs. So without engines
    in this process any installed form of the graphs will do.
    """
    precision = parameters.choice("vae_precision", tuple(GRAPH_TYPES), "fp32")
    engines = (engine_settings(parameters, device).engine,) if _in_this_process(parameters) else ENGINES
    installed = installed_precisions(parameters.beside(FIRST), engines)
    if installed and precision not in installed:
        raise ParameterError(
            f"{parameters.model}: parameter vae_precision is {precision!r}, accepted: {', '.join(sorted(installed))}, "
            f"in which {FIRST} is installed. `python -m export placement --vae-precision ...` sets it."
        )
    return precision


def _load(parameters: ModelParameters, name: str, device: str) -> EngineByShape:
    """Load every version of a graph that has a file for this engine: plans have one version per clip size."""
    settings = engine_settings(parameters, device)
    home, file = parameters.beside(name).parent, GRAPH_FILES[settings.engine].name
    versions = sorted(int(path.parent.name) for path in home.glob(f"[0-9]*/{file}"))
    own = int(parameters.version_folder.name)  # without any, the error names this version
    return EngineByShape(
        [load_installed_engine(parameters, home / str(version), settings) for version in versions or [own]]
    )
