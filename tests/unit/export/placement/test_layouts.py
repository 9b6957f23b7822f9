"""What each GPU holds in an arrangement, and whether that fits."""

from dataclasses import replace

import pytest

from export.placement.cuda_pool import LEAST_POOL_BYTES
from export.placement.gpu_memory import GIB, PROCESS_BYTES, VaeEngine
from export.placement.gpus import KEPT_FREE_BYTES, REPORTED_MIB, Gpu
from export.placement.layouts import Layout, Verdict
from export.placement.pick_layout import placements
from export.placement.torch_memory import TORCH_ACTIVATIONS, vae_in_torch
from tests.unit.export.placement.arrangements import asked, decided, first_with, gpus
from wan_t2v.contract import STREAM, UNARY


def test_the_sum_of_a_gpu_is_all_that_it_holds() -> None:
    """One 80 GB GPU, one expert at a time, the VAE in a process of its own."""
    found = decided("720x1280", "80")
    assert found is not None
    plans, one = found.memory.plans, found.memory.largest_cache_set
    plan_bytes = {name: plan.weights + plan.context + plan.bindings for name, plan in plans.items()}
    vae = [plans["vae_decoder_first"], plans["vae_decoder_next"]]
    processes = 3 * GIB + found.memory.denoiser_working_set + LEAST_POOL_BYTES
    assert found.needed(0) == (
        plan_bytes["text_encoder"]
        + plan_bytes["high_noise_expert"]  # once: the other one is not loaded
        + sum(plan.weights + plan.context for plan in vae)
        + 2 * one
        + processes
    )


def test_as_triton_plans_the_vae_holds_seven_sets_of_caches() -> None:
    """Three of them as bindings of its two plans, four in the pool."""
    through, inside = (
        first_with(engine, asked("720x1280"), "141") for engine in (VaeEngine.TRITON_PLANS, VaeEngine.IN_PROCESS)
    )
    one = through.memory.largest_cache_set
    assert through.needed(0) - inside.needed(0) == pytest.approx(5 * one, rel=0.01)
    assert sum(h.caches for h in through.memory_uses) == 4 * one
    assert sum(h.caches for h in inside.memory_uses) == 2 * one
    assert sum(h.bindings for h in through.memory_uses if h.component.startswith("vae_decoder_")) // one == 3


def test_an_estimate_must_leave_a_margin_to_fit() -> None:
    found = decided("720x1280", "141", endpoints=(UNARY, STREAM))
    assert found is not None
    need = found.needed(0)
    quarter = sum(use.estimated for use in found.memory_uses) // 4 - KEPT_FREE_BYTES
    assert quarter > 0
    for free, verdict in ((quarter + 1, Verdict.FITS), (quarter - 1, Verdict.TIGHT), (-1, Verdict.TOO_SMALL)):
        assert replace(found, gpus=(Gpu("x", need + free),)).verdict is verdict


def test_four_gib_of_every_gpu_are_never_planned_for() -> None:
    for name, reported_mib in REPORTED_MIB.items():
        assert reported_mib * 2**20 - Gpu.parse(str(name)).usable > 4 * GIB
    for sizes in (("48", "48"), ("80",), ("80", "80"), ("141",)):
        found = decided("480x832", *sizes, experts="fp8")
        assert found is not None
        for index, gpu in enumerate(found.gpus):
            reported = REPORTED_MIB[int(sizes[index])] * 2**20
            assert reported - found.needed(index) >= 4 * GIB, (gpu, "and what no program can have")


def test_a_process_counts_on_every_gpu_that_it_opens() -> None:
    """The denoiser gets the second expert's answers on that GPU; the server opens all."""
    two = next(
        p
        for p in placements(asked("480x832", endpoints=(UNARY, STREAM)), gpus("141", "141"), Layout.EXPERT_EACH)
        if (p.text_encoder, p.vae, p.vae_engine) == (0, 1, VaeEngine.TRITON_PLANS)
    )
    opened = {
        name: {h.gpu for h in two.memory_uses if h.component == name and h.other >= PROCESS_BYTES == GIB}
        for name in ("tritonserver", "denoiser", STREAM, "vae_decoder")
    }
    assert opened == {"tritonserver": {0, 1}, "denoiser": {0, 1}, STREAM: {0, 1}, "vae_decoder": {0, 1}}
    one = first_with(VaeEngine.TRITON_PLANS, asked("480x832"), "141")
    assert sum(h.other >= GIB for h in one.memory_uses) == 3
    swapped = placements(asked("480x832"), gpus("141", "141"), Layout.ONE_AT_A_TIME)
    apart = next(p for p in swapped if p.vae == 1)
    opened = {h.component: {o.gpu for o in apart.memory_uses if o.component == h.component} for h in apart.memory_uses}
    assert opened["denoiser"] == {0} and opened["vae_decoder"] == {0, 1}


def test_torch_holds_its_program_once_for_all_sizes_where_plans_are_one_per_size() -> None:
    sizes = ("480x832", "832x480", "720x1280", "1280x720")
    memory = asked(*sizes)
    torch, plans = (first_with(e, memory, "141") for e in (VaeEngine.TORCH, VaeEngine.IN_PROCESS))
    inside = {e: next(h for h in p.memory_uses if h.component == "vae_decoder") for e, p in ((1, torch), (2, plans))}
    assert inside[2].weights == 4 * inside[1].weights
    assert inside[1].context < inside[2].context and inside[1].caches == inside[2].caches
    one = asked("720x1280").plans["vae_decoder_next"].context
    assert vae_in_torch(memory).context == TORCH_ACTIVATIONS * one


def test_a_measured_context_is_no_estimate() -> None:
    memory = asked("720x1280")
    known = replace(memory, measured={name: plan.context for name, plan in memory.plans.items()})
    guessed, measured = (placements(m, gpus("80"), Layout.ONE_AT_A_TIME)[0] for m in (memory, known))
    assert measured.needed(0) == guessed.needed(0)
    assert sum(h.estimated for h in measured.memory_uses) < sum(h.estimated for h in guessed.memory_uses)


def test_two_endpoints_hold_the_vae_twice_in_their_processes() -> None:
    one, both = (
        first_with(VaeEngine.IN_PROCESS, asked("720x1280", endpoints=endpoints), "141")
        for endpoints in ((UNARY,), (UNARY, STREAM))
    )
    held = {use.component: use for use in both.memory_uses}
    assert held[STREAM].caches == held["vae_decoder"].caches == 2 * both.memory.largest_cache_set
    assert both.needed(0) - one.needed(0) == held[STREAM].total
    alone = placements(asked("720x1280", endpoints=(STREAM,)), gpus("141"), Layout.BOTH)[0]
    assert not {"denoiser", "vae_decoder"} & {use.component for use in alone.memory_uses}


def test_two_endpoints_decode_two_clips_at_a_time_through_triton() -> None:
    one, both = (
        first_with(VaeEngine.TRITON_PLANS, asked("480x832", endpoints=d), "141") for d in ((UNARY,), (UNARY, STREAM))
    )
    caches = [sum(use.caches for use in placement.memory_uses) for placement in (one, both)]
    assert caches[1] == 2 * caches[0] == 8 * one.memory.largest_cache_set
