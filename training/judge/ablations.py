"""Ablations: scores with experts, guidance, prompt or steps changed."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from diffusers import WanTransformer3DModel

from training.judge.adherence import Adherence, judge_adherence
from training.learn.sampling import Modules, SamplingSettings, generate_clips, latent_shape
from training.world.prompts import Prompt, fixed_prompts
from wan_t2v.shapes import VideoShape

GENERATED_TOGETHER = 9


@dataclass(frozen=True)
class Ablation:
    """One change of the modules, the settings or the prompt."""

    name: str
    settings: SamplingSettings = SamplingSettings()
    modules: Callable[[Modules], Modules] = lambda modules: modules
    change_prompt: Callable[[str], str] = lambda prompt: prompt


ABLATIONS = (
    Ablation("as served"),
    Ablation(
        "experts in BF16",
        modules=lambda m: replace(
            m, high_noise_expert=_in_bf16(m.high_noise_expert), low_noise_expert=_in_bf16(m.low_noise_expert)
        ),
    ),
    Ablation("half the steps", SamplingSettings(steps=20)),
    Ablation("without guidance", SamplingSettings(guidance_scale=1.0, guidance_scale_2=1.0)),
    Ablation("empty prompt", change_prompt=lambda prompt: ""),
    Ablation(
        "experts exchanged",
        modules=lambda m: replace(m, high_noise_expert=m.low_noise_expert, low_noise_expert=m.high_noise_expert),
    ),
    Ablation("high-noise expert alone", modules=lambda m: replace(m, low_noise_expert=m.high_noise_expert)),
    Ablation("low-noise expert alone", modules=lambda m: replace(m, high_noise_expert=m.low_noise_expert)),
)


def _in_bf16(expert: WanTransformer3DModel) -> WanTransformer3DModel:
    """Copy an expert to BF16 by saving and loading it, since only loading keeps diffusers' FP32 modules in FP32."""
    with tempfile.TemporaryDirectory() as folder:
        expert.save_pretrained(folder)
        loaded = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16, local_files_only=True)
    return cast(WanTransformer3DModel, loaded).eval()


def score_ablation(
    ablation: Ablation,
    modules: Modules,
    *,
    video: VideoShape,
    sheet: Path | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> Adherence:
    """Generate `prompts`, by default the fixed ones, in this process, and judge the clips.

    A contact sheet is written if `sheet` is given.
    """
    prompts = fixed_prompts() if prompts is None else prompts
    changed = ablation.modules(modules)
    clips = []
    for first in range(0, len(prompts), GENERATED_TOGETHER):
        group = prompts[first : first + GENERATED_TOGETHER]
        clips += generate_clips(
            changed,
            [ablation.change_prompt(prompt.text) for prompt in group],
            seeds=[prompt.seed for prompt in group],
            shape=latent_shape(video),
            settings=ablation.settings,
        )
    return judge_adherence(clips, prompts, sheet=sheet)
