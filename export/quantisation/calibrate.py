"""Calibration for FP8 and INT8: ModelOpt records ranges in both experts while diffusers' pipeline generates videos."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from diffusers import WanPipeline
from torch import nn
from tqdm import tqdm

from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.graphs.fp8_layers import ATTENTION_INPUTS, needed_ranges
from export.graphs.precision import PrecisionError
from export.quantisation.ranges import Fp8Ranges

_PIPELINE_FIELDS = ("height", "width", "num_frames", "guidance_scale", "guidance_scale_2", "negative_prompt")
_E4M3 = {"num_bits": (4, 3), "axis": None}
# The last part of a range's name, and the name of ModelOpt's quantizer there.
_QUANTIZERS = {"weight": "weight_quantizer", "input": "input_quantizer"} | {
    name: f"{name[0]}_bmm_quantizer" for name in ATTENTION_INPUTS
}


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings of the calibration videos: one per prompt, at the checkpoint's default size."""

    prompts: tuple[str, ...]
    num_inference_steps: int
    seed: int = 0


def calibrate(checkpoint: Checkpoint, settings: CalibrationSettings) -> Fp8Ranges:
    """Generate the videos and return the largest absolute values in the experts' layers.

    Raises CheckpointError, and PrecisionError without ModelOpt or with too few steps.
    """
    checkpoint.check()
    hashes = {name: checkpoint.hash_of(name).sha256 for name in EXPERT_COMPONENTS}  # an error comes before the videos
    mtq = _modelopt()
    fields = {name: field["value"] for name, field in checkpoint.defaults.items()}
    pipeline = _pipeline(checkpoint, flow_shift=fields["flow_shift"])
    _check_both_run(pipeline.scheduler, settings.num_inference_steps, checkpoint.facts.boundary_timestep)
    experts = nn.ModuleDict({name: getattr(pipeline, name) for name in EXPERT_COMPONENTS})
    watched = _watch(mtq, experts, lambda: _make_videos(pipeline, settings, fields))
    return Fp8Ranges(
        checkpoint_hashes=hashes,
        ranges={name: _ranges(watched[name]) for name in EXPERT_COMPONENTS},
        made_with={
            "prompts": list(settings.prompts),
            "num_inference_steps": settings.num_inference_steps,
            "seed": settings.seed,
            "flow_shift": fields["flow_shift"],
            "size": [fields[name] for name in ("num_frames", "height", "width")],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": {name: version(name) for name in ("torch", "diffusers", "nvidia-modelopt")},
        },
    )


def _modelopt() -> Any:
    """Import ModelOpt's quantisation. Raises PrecisionError without ModelOpt."""
    try:
        import modelopt.torch.quantization as mtq  # seconds to import, and an extra of its own
    except ImportError as error:
        raise PrecisionError(f"calibration needs NVIDIA's ModelOpt: {error}. Run `make setup-dev`") from error
    return mtq


def _pipeline(checkpoint: Checkpoint, *, flow_shift: float) -> Any:
    """Load the pipeline: a large checkpoint in BF16, a small one in FP32. On a GPU, components are loaded in turn.

    `flow_shift` replaces that of the scheduler's file, since the server's default is another one.
    """
    dtype = torch.float32 if checkpoint.kind is CheckpointKind.SMALL else torch.bfloat16
    pipeline: Any = WanPipeline.from_pretrained(checkpoint.folder, torch_dtype=dtype, local_files_only=True)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, flow_shift=flow_shift)
    pipeline.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipeline.enable_model_cpu_offload()
    return pipeline


def _check_both_run(scheduler: Any, steps: int, boundary_timestep: float) -> None:
    """Raise PrecisionError unless each expert has a step, since it would get no ranges."""
    scheduler.set_timesteps(steps)
    high_noise = int((scheduler.timesteps >= boundary_timestep).sum())
    if high_noise in (0, steps):
        idle = EXPERT_COMPONENTS[0] if high_noise == 0 else EXPERT_COMPONENTS[1]
        shift = scheduler.config.flow_shift
        raise PrecisionError(f"--steps {steps}: {idle} would have no step at flow shift {shift:g}. Ask for more steps.")


def _make_videos(pipeline: Any, settings: CalibrationSettings, fields: dict[str, Any]) -> None:
    for index, prompt in enumerate(tqdm(settings.prompts, desc="calibrating", unit="video")):
        pipeline(
            prompt=prompt,
            num_inference_steps=settings.num_inference_steps,
            **{name: fields[name] for name in _PIPELINE_FIELDS},
            generator=torch.Generator().manual_seed(settings.seed + index),
            output_type="latent",
        )


def _watch(mtq: Any, experts: nn.ModuleDict, make_videos: Callable[[], None]) -> nn.ModuleDict:
    """Insert ModelOpt's quantizers into all blocks of the experts, and run `make_videos` once.

    All blocks are recorded, although FP8 leaves some unquantised.
    """
    blocks = {name: range(len(experts[name].blocks)) for name in EXPERT_COMPONENTS}  # type: ignore[arg-type]
    patterns = [
        f"{name}.blocks.{block}.*{kind}"
        for name in EXPERT_COMPONENTS
        for block in blocks[name]
        for kind in _QUANTIZERS.values()
    ]
    rules = [{"quantizer_name": pattern, "cfg": _E4M3} for pattern in patterns]
    config = {"quant_cfg": [{"quantizer_name": "*", "enable": False}, *rules], "algorithm": "max"}
    watched: nn.ModuleDict = mtq.quantize(experts, config, lambda _: make_videos())
    return watched


def _ranges(expert: Any) -> dict[str, float]:
    ranges = {}
    for name in needed_ranges(range(len(expert.blocks))):
        place, _, kind = name.rpartition(".")
        ranges[name] = float(expert.get_submodule(f"{place}.{_QUANTIZERS[kind]}").amax)
    return ranges
