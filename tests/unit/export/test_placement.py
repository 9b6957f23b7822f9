"""What goes where, for each set of GPUs that people have."""

from dataclasses import replace

import pytest

from export.architecture import A14B
from export.gpu_memory import GIB, STREAM, UNARY, Deployment, GpuMemory, SettingsError, unique_sizes
from export.gpus import Gpu
from export.placement import Layout, Placement, VaeEngine, Verdict, best_of_each_layout, chosen, placements
from export.placement_offers import offers


def asked(size: str, *, doors: tuple[str, ...] = (UNARY,), **precisions: str) -> GpuMemory:
    return GpuMemory(A14B, Deployment(unique_sizes([size]), doors=doors, **precisions), {})


def gpus(*sizes: str) -> list[Gpu]:
    return [Gpu.parsed(size) for size in sizes]


def decided(size: str, *sizes: str, **precisions: str) -> Placement | None:
    return chosen(best_of_each_layout(asked(size, **precisions), gpus(*sizes)))


@pytest.mark.parametrize(
    ("sizes", "precision", "size", "layout", "engine"),
    [
        (["141"], "bf16", "480x832", Layout.BOTH, VaeEngine.TRITON_PLANS),
        (["141"], "bf16", "720x1280", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["80"], "bf16", "720x1280", Layout.ONE_AT_A_TIME, VaeEngine.IN_PROCESS),
        (["80"], "fp8", "480x832", Layout.BOTH, VaeEngine.TRITON_PLANS),
        (["80", "80"], "bf16", "720x1280", Layout.EXPERT_EACH, VaeEngine.IN_PROCESS),
        (["80", "80"], "fp8", "720x1280", Layout.BOTH, VaeEngine.IN_PROCESS),
        (["48", "48"], "bf16", "480x832", Layout.EXPERT_EACH, VaeEngine.IN_PROCESS),
    ],
)
def test_the_best_that_fits(sizes: list[str], precision: str, size: str, layout: Layout, engine: VaeEngine) -> None:
    found = decided(size, *sizes, experts=precision)
    assert found is not None
    assert (found.layout, found.vae_engine, found.verdict) == (layout, engine, Verdict.FITS)


def test_a_48_gb_gpu_holds_fp8_at_480p_one_expert_at_a_time_and_only_just() -> None:
    found = decided("480x832", "48", experts="fp8")
    assert found is not None
    assert (found.layout, found.vae_engine) == (Layout.ONE_AT_A_TIME, VaeEngine.IN_PROCESS)
    assert found.verdict is Verdict.TIGHT


def test_nothing_fits_a_48_gb_gpu_at_720p() -> None:
    assert decided("720x1280", "48") is None


def test_both_experts_on_both_gpus_let_guidance_run_in_parallel() -> None:
    found = decided("720x1280", "80", "80", experts="fp8")
    assert found is not None
    assert found.expert_gpus == {"high_noise_expert": (0, 1), "low_noise_expert": (0, 1)}
    assert found.words == "both experts on both GPUs, guidance in parallel"


def test_two_gpus_share_what_is_not_an_expert() -> None:
    found = decided("720x1280", "80", "80")
    assert found is not None
    assert found.expert_gpus == {"high_noise_expert": (0,), "low_noise_expert": (1,)}
    assert {found.text_encoder, found.vae} == {0, 1}
    others = placements(found.memory, found.gpus, found.layout)
    assert found.least_free == max(p.least_free for p in others if p.vae_engine is found.vae_engine)


def test_the_sum_of_a_gpu_is_all_that_it_holds() -> None:
    """One 80 GB GPU, one expert at a time, the VAE in a process of its own."""
    found = decided("720x1280", "80")
    assert found is not None
    plans, one = found.memory.plans, found.memory.largest_cache_set
    plan_bytes = {name: plan.weights + plan.context + plan.bindings for name, plan in plans.items()}
    vae = [plans["vae_decoder_first"], plans["vae_decoder_next"]]
    processes = 3 * GIB // 2 + GIB // 2 + found.memory.denoiser_working_set  # three processes and the pool
    assert found.needed(0) == (
        plan_bytes["text_encoder"]
        + plan_bytes["high_noise_expert"]  # once: the other one is not loaded
        + sum(plan.weights + plan.context for plan in vae)
        + 2 * one
        + processes
    )


def test_as_triton_plans_the_vae_holds_six_sets_of_caches() -> None:
    """Three of them as bindings of its two plans, three in its calls."""
    through, inside = (
        next(p for p in placements(asked("720x1280"), gpus("141"), Layout.BOTH) if p.vae_engine is engine)
        for engine in VaeEngine
    )
    one = through.memory.largest_cache_set
    assert through.needed(0) - inside.needed(0) == pytest.approx(4 * one, rel=0.01)
    assert sum(h.caches for h in through.holdings) == 3 * one
    assert sum(h.caches for h in inside.holdings) == 2 * one
    assert sum(h.bindings for h in through.holdings if h.component.startswith("vae_decoder_")) // one == 3


def test_an_estimate_must_leave_a_margin_to_fit() -> None:
    found = decided("720x1280", "80")
    assert found is not None
    need = found.needed(0)
    estimated = sum(holding.estimated for holding in found.holdings)
    for free, verdict in ((estimated // 4 + 1, Verdict.FITS), (estimated // 8, Verdict.TIGHT), (-1, Verdict.TOO_SMALL)):
        assert replace(found, gpus=(Gpu("x", need + free),)).verdict is verdict


def test_a_measured_context_is_no_estimate() -> None:
    memory = asked("720x1280")
    known = replace(memory, measured={name: plan.context for name, plan in memory.plans.items()})
    guessed, measured = (placements(m, gpus("80"), Layout.ONE_AT_A_TIME)[0] for m in (memory, known))
    assert measured.needed(0) == guessed.needed(0)
    assert sum(h.estimated for h in measured.holdings) < sum(h.estimated for h in guessed.holdings)


def test_experts_that_fit_tightly_are_preferred_to_swapping() -> None:
    resident = placements(asked("720x1280"), gpus("80"), Layout.BOTH)[0]
    tight = [Gpu("x", resident.needed(0))]
    found = chosen(best_of_each_layout(asked("720x1280"), tight))
    assert found is not None and (found.layout, found.verdict) == (Layout.BOTH, Verdict.TIGHT)


def test_the_ways_out_are_fp8_then_two_gpus_then_swapping() -> None:
    found = offers(asked("720x1280"), gpus("80"))
    assert [offer.change for offer in found] == [
        "experts in fp8, VAE in bf16",
        "two GPUs of 80 GB, experts in bf16, VAE in fp32",
        "one expert at a time, swapped once a clip (slower), experts in bf16, VAE in fp32",
    ]
    assert [offer.placement is not None and offer.placement.layout for offer in found] == [
        Layout.BOTH,
        Layout.EXPERT_EACH,
        Layout.ONE_AT_A_TIME,
    ]


def test_ways_out_that_lead_nowhere_say_so_and_those_in_use_are_left_out() -> None:
    fp8, two, swapping = offers(asked("720x1280"), gpus("48"))
    assert fp8.placement is None and swapping.placement is None
    assert two.placement is not None
    assert [
        offer.change.split(",")[0] for offer in offers(asked("720x1280", experts="fp8", vae="bf16"), gpus("48"))
    ] == [
        "two GPUs of 48 GB",
        "one expert at a time",
    ]
    assert len(offers(asked("720x1280"), gpus("48", "48"))) == 2


def test_more_than_two_gpus_are_refused_with_advice() -> None:
    with pytest.raises(SettingsError, match="3 GPUs, accepted: one or two.*run a server for each"):
        decided("720x1280", "80", "80", "80")


def test_two_doors_hold_the_vae_twice_in_their_processes() -> None:
    one, both = (
        next(p for p in placements(asked("720x1280", doors=doors), gpus("141"), Layout.BOTH) if p.vae_engine.in_process)
        for doors in ((UNARY,), (UNARY, STREAM))
    )
    held = {holding.component: holding for holding in both.holdings}
    assert held[STREAM].caches == held["vae_decoder"].caches == 2 * both.memory.largest_cache_set
    assert both.needed(0) - one.needed(0) == held[STREAM].total
    alone = placements(asked("720x1280", doors=(STREAM,)), gpus("141"), Layout.BOTH)[0]
    assert not {"denoiser", "vae_decoder"} & {holding.component for holding in alone.holdings}


def test_two_doors_decode_two_clips_at_a_time_through_triton() -> None:
    one, both = (
        next(p for p in placements(asked("480x832", doors=d), gpus("141"), Layout.BOTH) if not p.vae_engine.in_process)
        for d in ((UNARY,), (UNARY, STREAM))
    )
    assert both.caches_in_calls == 2 * one.caches_in_calls == 6 * one.memory.largest_cache_set


def test_who_swaps_the_experts_is_on_their_gpu() -> None:
    """It waits for memory of its own GPU to come free."""
    found = placements(asked("480x832", doors=(STREAM,)), gpus("80", "80"), Layout.ONE_AT_A_TIME)
    assert found and all(placement.stream == 0 for placement in found)


def test_one_door_alone_is_offered_last() -> None:
    *_, last = offers(asked("720x1280", doors=(UNARY, STREAM)), gpus("80"))
    assert last.change.startswith("one door only (--door stream)")
    assert last.placement is not None and last.placement.layout is Layout.ONE_AT_A_TIME
