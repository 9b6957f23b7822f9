"""What goes where, for each set of GPUs that people have."""

from dataclasses import replace

import pytest

from export.placement.gpu_memory import (
    SettingsError,
    VaeEngine,
)
from export.placement.gpus import Gpu
from export.placement.layouts import ON_CPU, Layout, Verdict
from export.placement.pick_layout import best_fit, best_of_each_layout, placements
from tests.unit.export.placement.arrangements import asked, decided, first_with, gpus
from wan_t2v.contract import STREAM, UNARY


@pytest.mark.parametrize(
    ("sizes", "precision", "size", "layout", "engine"),
    [
        (["141"], "bf16", "480x832", Layout.BOTH, VaeEngine.TRITON_PLANS),
        (["141"], "bf16", "720x1280", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["80"], "bf16", "720x1280", Layout.ONE_AT_A_TIME, VaeEngine.IN_PROCESS),
        (["80"], "bf16", "480x832", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["80"], "fp8", "480x832", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["80", "80"], "bf16", "720x1280", Layout.EXPERT_EACH, VaeEngine.IN_PROCESS),
        (["80", "80"], "fp8", "720x1280", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["48", "48"], "fp8", "480x832", Layout.EXPERT_EACH, VaeEngine.IN_PROCESS),
    ],
)
def test_the_best_that_fits(sizes: list[str], precision: str, size: str, layout: Layout, engine: VaeEngine) -> None:
    found = decided(size, *sizes, experts=precision)
    assert found is not None
    assert (found.layout, found.vae_engine, found.verdict) == (layout, engine, Verdict.FITS)


def test_a_48_gb_gpu_holds_fp8_at_480p_one_expert_at_a_time_without_the_text_encoder() -> None:
    found = decided("480x832", "48", experts="fp8")
    assert found is not None
    assert (found.layout, found.vae_engine) == (Layout.ONE_AT_A_TIME, VaeEngine.IN_PROCESS)
    assert found.text_encoder == ON_CPU
    assert decided("480x832", "48", experts="fp8", text_encoder_device="gpu") is None


@pytest.mark.parametrize("endpoint", [UNARY, STREAM])
def test_without_the_text_encoder_both_bf16_experts_fit_80_gb_at_480p_for_one_endpoint(endpoint: str) -> None:
    """Two experts resident beat a swap per video; so it is chosen, and a GPU for the text encoder is not."""
    found = decided("480x832", "80", endpoints=(endpoint,))
    assert found is not None
    assert (found.layout, found.verdict) == (Layout.BOTH, Verdict.FITS)
    assert found.text_encoder_on_cpu and "text_encoder" not in {use.component for use in found.memory_uses}
    swapped = decided("480x832", "80", endpoints=(endpoint,), text_encoder_device="gpu")
    assert swapped is not None and swapped.layout is Layout.ONE_AT_A_TIME


def test_a_text_encoder_that_fits_on_a_gpu_stays_there_unless_it_is_asked_off() -> None:
    stays, asked_off = decided("480x832", "141"), decided("480x832", "141", text_encoder_device="cpu")
    assert stays is not None and stays.text_encoder == 0
    assert asked_off is not None and asked_off.text_encoder == ON_CPU
    plan = stays.memory.plans["text_encoder"]
    assert stays.needed(0) - asked_off.needed(0) == plan.weights + plan.context + plan.bindings


def test_nothing_fits_a_48_gb_gpu_at_720p() -> None:
    assert decided("720x1280", "48") is None


def test_both_experts_on_both_gpus_let_guidance_run_in_parallel() -> None:
    found = decided("720x1280", "80", "80", experts="fp8")
    assert found is not None
    assert found.expert_gpus == {"high_noise_expert": (0, 1), "low_noise_expert": (0, 1)}
    assert found.description == "both experts on both GPUs, guidance in parallel"


def test_two_gpus_share_what_is_not_an_expert() -> None:
    found = decided("720x1280", "80", "80")
    assert found is not None
    assert found.expert_gpus == {"high_noise_expert": (0,), "low_noise_expert": (1,)}
    assert {found.text_encoder, found.vae} == {0, 1}
    others = placements(found.memory, found.gpus, found.layout)
    like = [p for p in others if p.vae_engine is found.vae_engine and not p.text_encoder_on_cpu]
    assert found.least_free == max(p.least_free for p in like)


def test_torch_runs_the_vae_where_neither_kind_of_plan_fits() -> None:
    """Preferred are Triton's plans, then plans in the process; torch where a context per size is too much."""
    sizes = ("480x832", "832x480", "720x1280", "1280x720")
    memory = asked(*sizes, endpoints=(STREAM,))
    torch, plans = (first_with(e, memory, "141") for e in (VaeEngine.TORCH, VaeEngine.IN_PROCESS))
    between = Gpu("x", (torch.needed(0) + plans.needed(0)) // 2)
    pinned = replace(memory, profile=replace(memory.profile, text_encoder_device="gpu"))
    found = placements(pinned, [between], Layout.BOTH)[0]
    assert found.vae_engine is VaeEngine.TORCH and found.verdict > Verdict.TOO_SMALL
    wished = asked("480x832", vae_engine=VaeEngine.TORCH)
    assert {p.vae_engine for p in placements(wished, gpus("141"), Layout.BOTH)} == {VaeEngine.TORCH}


def test_experts_that_fit_tightly_are_preferred_to_swapping() -> None:
    memory = asked("720x1280", endpoints=(UNARY, STREAM), text_encoder_device="gpu")
    resident = first_with(VaeEngine.IN_PROCESS, memory, "80")
    tight = [Gpu("x", resident.needed(0))]
    found = best_fit(best_of_each_layout(memory, tight))
    assert found is not None and (found.layout, found.verdict) == (Layout.BOTH, Verdict.TIGHT)


def test_more_than_two_gpus_are_refused_with_advice() -> None:
    with pytest.raises(SettingsError, match="3 GPUs, accepted: one or two.*run a server for each"):
        decided("720x1280", "80", "80", "80")


def test_who_swaps_the_experts_is_on_their_gpu() -> None:
    """It waits for memory of its own GPU to come free."""
    found = placements(asked("480x832", endpoints=(STREAM,)), gpus("80", "80"), Layout.ONE_AT_A_TIME)
    assert found and all(placement.stream == 0 for placement in found)
