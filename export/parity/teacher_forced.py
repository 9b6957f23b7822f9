"""Teacher-forced comparison of experts over one generation: every step uses the reference's latents as input.

An error at one step therefore does not reach the next one, where the solver would amplify it. Each step, expert and
band of timesteps can be judged separately. The reference is diffusers' module in FP32. The same module in BF16, Wan's
own precision, is one of the candidates: its error is the noise floor.
"""

import gc
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint.folder import Checkpoint, CheckpointError
from export.checkpoint.tokenizer import save_tokenizer
from export.graphs.precision import torch_dtype
from export.graphs.registry import GRAPHS
from export.graphs.text_encoder import TextEncoderGraph
from export.manifest import onnx_file
from wan_t2v.contract import EXPERTS
from wan_t2v.denoise import denoise
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.experts import EngineExpert, Expert, Experts
from wan_t2v.facts import TOKENIZER_FILE
from wan_t2v.latents import starting_noise
from wan_t2v.shapes import VideoShape
from wan_t2v.solvers.noise_levels import official_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule
from wan_t2v.tokens import PromptTokenizer, clean_prompt

BANDS = ((875, 1001), (600, 875), (300, 600), (0, 300))  # of timesteps; the high-noise expert runs in the first


@dataclass(frozen=True)
class ReferencePass:
    """Inputs and output of one forward pass of the reference, in FP32.

    Shapes: latents and velocity (B, C, F, H, W), text (B, text_length, D).
    """

    step: int
    expert: str
    timestep: float
    latents: Tensor
    text: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class ReferenceSettings:
    """Settings of the reference generation: by default the checkpoint's default size, on the CPU."""

    prompt: str
    steps: int
    seed: int = 0
    size: VideoShape | None = None
    device: str = "cpu"


class TorchExpert:
    """Expert that runs a diffusers module in any precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype

    @torch.inference_mode()
    def __call__(self, latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
        timesteps = torch.full((latents.shape[0],), float(timestep), device=latents.device)
        given = latents.to(self._dtype), timesteps, text_embeddings.to(self._dtype)
        velocity: Tensor = self._module(*given, return_dict=False)[0]
        return velocity.float()


class OneAtATime(Mapping[str, Expert]):
    """Both experts by name, of which one is loaded: the one that was last asked for. A generation switches once."""

    def __init__(self, load: Callable[[str], Expert]) -> None:
        self._load = load
        self._loaded: tuple[str, Expert] | None = None

    def __getitem__(self, name: str) -> Expert:
        if name not in EXPERTS:
            raise KeyError(name)
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            _free_memory()
            self._loaded = name, self._load(name)
        return self._loaded[1]

    def __iter__(self) -> Iterator[str]:
        return iter(EXPERTS)

    def __len__(self) -> int:
        return len(EXPERTS)


def _free_memory() -> None:
    """Free what nothing refers to any more, and give what torch keeps of a GPU's memory back to others."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def torch_experts(checkpoint: Checkpoint, precision: str, device: str = "cpu") -> Mapping[str, Expert]:
    """Load diffusers' modules of the experts in a precision, one at a time. No product is in TF32 from here on."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def load(name: str) -> Expert:
        module: Any = checkpoint.module(GRAPHS[name].component, precision)
        return InPrecision(TorchExpert(module.to(device), torch_dtype(precision)), precision, device)

    return OneAtATime(load)


def graph_experts(folder: Path, precision: str) -> Mapping[str, Expert]:
    """Load the exported graphs of both experts in ONNX Runtime on the CPU, which must support the precision."""
    engines = {name: OnnxRuntimeEngine(onnx_file(folder / name)) for name in EXPERTS}
    return {name: InPrecision(EngineExpert(_NumpyEngine(e)), precision, "cpu") for name, e in engines.items()}


def reference_run(
    checkpoint: Checkpoint, settings: ReferenceSettings, on_step: Callable[[int], object] = lambda step: None
) -> list[ReferencePass]:
    """Generate with the reference at the checkpoint's default guidance, and return every forward pass, on the CPU.

    `on_step` is called with the index of each finished step.
    Raises CheckpointError for so few steps that an expert has none.
    """
    facts = checkpoint.facts
    fields = {name: field["value"] for name, field in checkpoint.defaults.items()}
    schedule = UniPcSchedule(facts.scheduler, official_sigmas(settings.steps), flow_shift=fields["flow_shift"])
    _check_both_run([float(timestep) for timestep in schedule.timesteps], facts.boundary_timestep)
    video = settings.size or VideoShape(fields["num_frames"], fields["height"], fields["width"])
    recorder = _Recorder(torch_experts(checkpoint, "fp32", settings.device))
    embeds, negative = _text_embeddings(checkpoint, [settings.prompt, fields["negative_prompt"]], settings.device)
    with ThreadPoolExecutor(1) as executor:
        denoise(
            starting_noise(facts.grid.latent_shape(video), settings.seed),
            schedule,
            experts=recorder.experts(facts.boundary_timestep),
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            guidance_scale=fields["guidance_scale"],
            guidance_scale_2=fields["guidance_scale_2"],
            executor=executor,
            after_step=lambda step: recorder.next_step(step.index, on_step),
        )
    return recorder.passes


def _check_both_run(timesteps: Sequence[float], boundary_timestep: float) -> None:
    """Raise CheckpointError unless each expert has a step: an expert without one would be accepted unseen."""
    high_noise = sum(timestep >= boundary_timestep for timestep in timesteps)
    if high_noise in (0, len(timesteps)):
        idle = EXPERTS[0] if high_noise == 0 else EXPERTS[1]
        raise CheckpointError(f"--steps {len(timesteps)}: {idle} would have no step. Ask for more steps.")


def errors_along(passes: Sequence[ReferencePass], experts: Mapping[str, Expert]) -> list[float]:
    """Compute `|candidate - reference| / |reference|` of every pass: Euclidean norms over the whole velocity."""
    return [relative_error(experts[one.expert](one.latents, one.timestep, one.text), one.velocity) for one in passes]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Divide the norm of the difference by the norm of `expected`. NaN in gives NaN out."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def _text_embeddings(checkpoint: Checkpoint, prompts: Sequence[str], device: str) -> list[Tensor]:
    """Encode each prompt to (1, text_length, D) with the text encoder's module in FP32. They are on the CPU."""
    encoder = TextEncoderGraph(checkpoint.module("text_encoder")).to(device)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(checkpoint.folder, Path(folder) / TOKENIZER_FILE)
        tokenizer = PromptTokenizer(Path(folder), text_length=checkpoint.facts.text_length)
    tokens = [tokenizer(clean_prompt(prompt)) for prompt in prompts]
    with torch.inference_mode():
        given = [[torch.from_numpy(array).to(device) for array in (t.input_ids, t.attention_mask)] for t in tokens]
        return [encoder(ids, mask).cpu() for ids, mask in given]


class _NumpyEngine:
    """Adapter that passes CPU tensors to an engine that takes numpy arrays."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        return self._engine({name: tensor.numpy() for name, tensor in inputs.items()}, outputs)


class InPrecision:
    """Expert that takes FP32 tensors on the CPU and calls an expert in another precision, on another device."""

    def __init__(self, expert: Expert, precision: str, device: str) -> None:
        self._expert, self._dtype, self._device = expert, torch_dtype(precision), device

    def __call__(self, latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
        text = text_embeddings.to(self._device, self._dtype)
        return self._expert(latents.to(self._device), timestep, text).cpu()


class _Recorder:
    def __init__(self, reference: Mapping[str, Expert]) -> None:
        self.passes: list[ReferencePass] = []
        self._reference, self._step = reference, 1
        self._lock = threading.Lock()  # the guidance passes of a step come from two threads; one has room on a GPU

    def experts(self, boundary_timestep: float) -> Experts:
        high, low = (self._record(name) for name in EXPERTS)
        return Experts(high, low, boundary_timestep=boundary_timestep)

    def next_step(self, done: int, on_step: Callable[[int], object]) -> None:
        self._step = done + 1
        on_step(done)

    def _record(self, name: str) -> Expert:
        def call(latents: Tensor, timestep: float, text_embeddings: Tensor) -> Tensor:
            with self._lock:
                velocity = self._reference[name](latents, timestep, text_embeddings)
                one = ReferencePass(self._step, name, timestep, latents.clone(), text_embeddings, velocity)
                self.passes.append(one)
            return velocity

        return call
