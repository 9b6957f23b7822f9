"""Configs that are not what they seem: each is refused before any work, in one line with the remedy."""

import inspect
import math
import shutil
from pathlib import Path

import pytest
from diffusers import WanPipeline

from export.checkpoint.architecture import WANS_TEXT_LENGTH
from tests.unit.export.checkpoint.damages import (
    POINTER,
    SCHEDULER,
    Damage,
    both_experts,
    check_refused,
    edited,
    replaced,
)

CONFIGS: dict[str, tuple[Damage, str]] = {
    "image-to-video": (both_experts(in_channels=36), r"in_channels is 36, .* This is an image-to-video checkpoint"),
    "image-to-video pipeline": (
        edited("model_index.json", _class_name="WanImageToVideoPipeline"),
        "is an image-to-video checkpoint. Only text-to-video",
    ),
    "TI2V-5B": (
        edited("model_index.json", expand_timesteps=True, transformer_2=[None, None], boundary_ratio=None),
        "is a checkpoint of Wan2.2-TI2V-5B",
    ),
    "Wan2.1": (edited("model_index.json", transformer_2=...), "transformer_2 is nothing, expected WanTransformer3DM"),
    "an index that is a list": (replaced("model_index.json", "[]"), "holds a JSON list, accepted: an object"),
    "a component that is a text": (edited("model_index.json", vae="x"), r"vae is 'x', expected AutoencoderKLWan"),
    "no boundary": (edited("model_index.json", boundary_ratio=...), "has no boundary_ratio"),
    "a boundary in timesteps": (
        edited("model_index.json", boundary_ratio=875),
        "boundary_ratio is 875, accepted: a number above 0 and below 1",
    ),
    "a boundary that is no number": (edited("model_index.json", boundary_ratio=math.nan), "boundary_ratio is NaN"),
    "a boundary that is true": (edited("model_index.json", boundary_ratio=True), "boundary_ratio is true, accepted"),
    "a boundary that is a text": (edited("model_index.json", boundary_ratio="0.875"), 'boundary_ratio is "0.875"'),
    "another scheduler": (
        edited(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        '_class_name is "FlowMatch.*accepted: "UniPCMultistepScheduler"',
    ),
    "no flow": (edited(SCHEDULER, prediction_type="epsilon"), 'prediction_type is "epsilon", accepted: "flow_pred'),
    "no flow sigmas": (edited(SCHEDULER, use_flow_sigmas=...), "use_flow_sigmas is missing, accepted: true"),
    "other timesteps": (edited(SCHEDULER, num_train_timesteps="1000"), 'num_train_timesteps is "1000", accepted: 1000'),
    "another solver type": (edited(SCHEDULER, solver_type="bh1"), 'solver_type is "bh1", accepted: "bh2"'),
    "a scheduler's number": (edited(SCHEDULER, beta_start="x"), 'beta_start is "x", accepted: a number above 0'),
    "no JSON": (replaced("vae/config.json", "{"), "vae/config.json is not valid JSON"),
    "no UTF-8": (replaced("vae/config.json", b"\xff\xfe{\x00}\x00"), "vae/config.json is not UTF-8 text"),
    "a config that is null": (replaced("vae/config.json", "null"), "holds a JSON NoneType, accepted: an object"),
    "a config that is a pointer": (replaced("vae/config.json", POINTER), "pointer file of Git LFS .* `git lfs pull`"),
    "a config that is missing": (replaced("vae/config.json", None), "vae/config.json is missing. CHECKPOINT must be"),
    "a value twice": (
        replaced("vae/config.json", '{"z_dim": 16, "z_dim": 48}'),
        "is not valid JSON .z_dim stands there twice",
    ),
    "the VAE of TI2V-5B": (edited("vae/config.json", is_residual=True), "This is the VAE of Wan2.2-TI2V-5B"),
    "too few statistics": (edited("vae/config.json", latents_std=[1.0]), "latents_std is .*accepted: a list of 16 fin"),
    "a deviation of zero": (
        edited("vae/config.json", latents_std=[0.0] * 16),
        "accepted: a list of 16 finite numbers a",
    ),
    "statistics without numbers": (edited("vae/config.json", latents_mean=[math.nan] * 16), "latents_mean is .NaN"),
    "statistics that are missing": (edited("vae/config.json", latents_mean=...), "latents_mean is missing"),
    "another grid": (edited("vae/config.json", temperal_downsample=["a"]), "temperal_downsample is .*true and false"),
    "a layer count that is none": (both_experts(num_layers="forty"), 'num_layers is "forty", accepted: an integer'),
    "a million layers": (both_experts(num_layers=10**6), "num_layers is 1000000, accepted: an integer from 1 to 1000"),
    "more parameters than can be described": (
        both_experts(num_attention_heads=2**24),
        r"transformer/config.json: its layer sizes make [\d,]+ parameters, accepted: up to 1,099,511,627,776",
    ),
    "a text encoder as large": (edited("text_encoder/config.json", d_kv=2**24, num_heads=2**24), "layer sizes make"),
    "a VAE as large": (edited("vae/config.json", base_dim=2**24), "vae/config.json: its layer sizes make"),
    "wide heads": (both_experts(attention_head_dim=2**24), "_dim is 16777216, accepted: an integer from 1 to 1024"),
    "tables of gigabytes": (both_experts(rope_max_seq_len=2**24), "accepted: an integer from 1 to 16384"),
    "a thousand strides": (
        edited("vae/config.json", temperal_downsample=[True] * 1000),
        "accepted: a list of true and false, at most 8 of them",
    ),
    "another weight file": (
        edited("text_encoder/config.json", transformers_weights="other.safetensors"),
        'transformers_weights is "other.safetensors", accepted: no such entry. .* other files than those',
    ),
    "another config file": (
        edited("text_encoder/config.json", configuration_files=["config.4.0.0.json"]),
        "configuration_files is .*accepted: no such entry",
    ),
    "code of the checkpoint": (edited("vae/config.json", auto_map={"AutoModel": "m.Mine"}), "auto_map is .*no such"),
    "an empty quantisation": (edited("transformer_2/config.json", quantization_config={}), "has a quantization_config"),
    "another patch": (both_experts(patch_size=[2, 2, 2]), r"patch_size is \[2, 2, 2\], accepted: \[1, p, p\]"),
    "experts that differ": (edited("transformer_2/config.json", num_layers=3), "transformer and transformer_2 differ"),
    "a text encoder of another width": (
        edited("text_encoder/config.json", d_model=32),
        "text_dim of transformer is 64",
    ),
    "a T5": (edited("text_encoder/config.json", model_type="t5"), 'model_type is "t5", accepted: "umt5"'),
    "a library's value": (
        edited("text_encoder/config.json", dropout_rate="none"),
        'dropout_rate is "none", accepted: a number',
    ),
    "quantised by a library": (
        both_experts(quantization_config={"quant_method": "bitsandbytes"}),
        "has a quantization_config .bitsandbytes.* PRECISION=fp8",
    ),
    "no folder": (lambda folder: shutil.rmtree(folder / "vae"), "vae/config.json is missing"),
    "a folder in place of a config": (
        lambda folder: ((folder / SCHEDULER).unlink(), (folder / SCHEDULER).mkdir()),
        "scheduler_config.json cannot be read .Is a directory",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_refused_with_one_line(name: str, folder: Path) -> None:
    damage, message = CONFIGS[name]
    check_refused(damage, message, folder)


def test_prompts_are_as_long_as_in_diffusers_pipeline() -> None:
    assert inspect.signature(WanPipeline.__call__).parameters["max_sequence_length"].default == WANS_TEXT_LENGTH
