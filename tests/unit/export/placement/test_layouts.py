"""What goes where, for each set of GPUs that people have."""

from dataclasses import replace
from typing import Any

import pytest

from export.checkpoint.architecture import A14B
from export.placement.alternatives import find_alternatives
from export.placement.choose import best_fit, best_of_each_layout, placements
from export.placement.cuda_pool import CACHE_SETS_IN_POOL, LEAST_POOL_BYTES
from export.placement.gpu_memory import (
    GIB,
    PROCESS_BYTES,
    TORCH_ACTIVATIONS,
    GpuMemory,
    ServingProfile,
    SettingsError,
    VaeEngine,
    unique_sizes,
)
from export.placement.gpus import KEPT_FREE_BYTES, REPORTED_MIB, Gpu
from export.placement.layouts import ON_CPU, Layout, Placement, Verdict
from wan_t2v.contract import STREAM, UNARY


def asked(*sizes: str, doors: tuple[str, ...] = (UNARY,), **settings: Any) -> GpuMemory:
    return GpuMemory(A14B, ServingProfile(unique_sizes(sizes), doors=doors, **settings), {})


def gpus(*sizes: str) -> list[Gpu]:
    return [Gpu.parse(size) for size in sizes]


def decided(size: str, *sizes: str, **settings: Any) -> Placement | None:
    return best_fit(best_of_each_layout(asked(size, **settings), gpus(*sizes)))


def first_with(engine: VaeEngine, memory: GpuMemory, gpu: str, layout: Layout = Layout.BOTH) -> Placement:
    return next(p for p in placements(memory, gpus(gpu), layout) if p.vae_engine is engine and p.text_encoder == 0)


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


@pytest.mark.parametrize("door", [UNARY, STREAM])
def test_without_the_text_encoder_both_bf16_experts_fit_80_gb_at_480p_for_one_endpoint(door: str) -> None:
    """Two experts resident beat a swap per video; so it is chosen, and a GPU for the text encoder is not."""
    found = decided("480x832", "80", doors=(door,))
    assert found is not None
    assert (found.layout, found.verdict) == (Layout.BOTH, Verdict.FITS)
    assert found.text_encoder_on_cpu and "text_encoder" not in {use.component for use in found.memory_uses}
    swapped = decided("480x832", "80", doors=(door,), text_encoder_device="gpu")
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
    found = decided("720x1280", "141", doors=(UNARY, STREAM))
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
        for p in placements(asked("480x832", doors=(UNARY, STREAM)), gpus("141", "141"), Layout.EXPERT_EACH)
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
    assert memory.vae_in_torch.context == TORCH_ACTIVATIONS * one


def test_torch_runs_the_vae_where_neither_kind_of_plan_fits() -> None:
    """Preferred are Triton's plans, then plans in the process; torch where a context per size is too much."""
    sizes = ("480x832", "832x480", "720x1280", "1280x720")
    memory = asked(*sizes, doors=(STREAM,))
    torch, plans = (first_with(e, memory, "141") for e in (VaeEngine.TORCH, VaeEngine.IN_PROCESS))
    between = Gpu("x", (torch.needed(0) + plans.needed(0)) // 2)
    pinned = replace(memory, profile=replace(memory.profile, text_encoder_device="gpu"))
    found = placements(pinned, [between], Layout.BOTH)[0]
    assert found.vae_engine is VaeEngine.TORCH and found.verdict > Verdict.TOO_SMALL
    wished = asked("480x832", vae_engine=VaeEngine.TORCH)
    assert {p.vae_engine for p in placements(wished, gpus("141"), Layout.BOTH)} == {VaeEngine.TORCH}


@pytest.mark.parametrize("doors", [(UNARY,), (UNARY, STREAM)])
@pytest.mark.parametrize("size", ["480x832", "720x1280", "720x1280x161"])
@pytest.mark.parametrize("experts", ["bf16", "fp32"])
def test_the_pool_holds_everything_that_is_alive_at_once_and_holes(
    doors: tuple[str, ...], size: str, experts: str
) -> None:
    """Counted here tensor by tensor, for each endpoint: two passes of an expert, the VAE's call, the latents."""
    memory = asked(size, doors=doors, experts=experts)
    (shape,) = memory.profile.sizes
    value = {"bf16": 2, "fp32": 4}[experts]
    latents = 16 * ((shape.frames - 1) // 4 + 1) * (shape.height // 8) * (shape.width // 8)
    a_pass = 2 * latents * value + 512 * 4096 * value + 4
    frames = 4 * 3 * shape.height * shape.width * 4
    alive = 2 * a_pass + 2 * latents * value + 3 * latents * 4
    through, inside = (first_with(e, memory, "141") for e in (VaeEngine.TRITON_PLANS, VaeEngine.IN_PROCESS))
    assert inside.pool_bytes(0) >= max(2 * len(doors) * alive, LEAST_POOL_BYTES)
    caches = len(doors) * CACHE_SETS_IN_POOL * memory.largest_cache_set
    assert CACHE_SETS_IN_POOL > 3
    assert through.pool_bytes(0) >= caches + 2 * len(doors) * (alive + 2 * frames)
    for placement in (through, inside):
        pool = next(h for h in placement.memory_uses if h.component == "CUDA pool")
        assert pool.total == placement.pool_bytes(0) and pool.estimated == 0


def test_a_measured_context_is_no_estimate() -> None:
    memory = asked("720x1280")
    known = replace(memory, measured={name: plan.context for name, plan in memory.plans.items()})
    guessed, measured = (placements(m, gpus("80"), Layout.ONE_AT_A_TIME)[0] for m in (memory, known))
    assert measured.needed(0) == guessed.needed(0)
    assert sum(h.estimated for h in measured.memory_uses) < sum(h.estimated for h in guessed.memory_uses)


def test_experts_that_fit_tightly_are_preferred_to_swapping() -> None:
    memory = asked("720x1280", doors=(UNARY, STREAM), text_encoder_device="gpu")
    resident = first_with(VaeEngine.IN_PROCESS, memory, "80")
    tight = [Gpu("x", resident.needed(0))]
    found = best_fit(best_of_each_layout(memory, tight))
    assert found is not None and (found.layout, found.verdict) == (Layout.BOTH, Verdict.TIGHT)


def test_the_ways_out_are_fp8_then_two_gpus_then_swapping() -> None:
    found = find_alternatives(asked("720x1280"), gpus("80"))
    assert [alternative.change for alternative in found] == [
        "experts in fp8, VAE in fp32",
        "two GPUs of 80 GB, experts in bf16, VAE in fp32",
        "one expert at a time, swapped once a clip (slower), experts in bf16, VAE in fp32",
    ]
    assert [alternative.placement is not None and alternative.placement.layout for alternative in found] == [
        Layout.BOTH,
        Layout.EXPERT_EACH,
        Layout.ONE_AT_A_TIME,
    ]


def test_ways_out_that_lead_nowhere_say_so_and_those_in_use_are_left_out() -> None:
    assert [alternative.placement for alternative in find_alternatives(asked("1280x1280"), gpus("48"))] == [None] * 3
    fp8, two, swapping = find_alternatives(asked("720x1280"), gpus("48"))
    assert fp8.placement is None and two.placement is not None and swapping.placement is not None
    assert [
        alternative.change.split(",")[0]
        for alternative in find_alternatives(asked("720x1280", experts="fp8", vae="bf16"), gpus("48"))
    ] == [
        "two GPUs of 48 GB",
        "one expert at a time",
    ]
    assert len(find_alternatives(asked("720x1280"), gpus("48", "48"))) == 2


def test_more_than_two_gpus_are_refused_with_advice() -> None:
    with pytest.raises(SettingsError, match="3 GPUs, accepted: one or two.*run a server for each"):
        decided("720x1280", "80", "80", "80")


def test_two_doors_hold_the_vae_twice_in_their_processes() -> None:
    one, both = (
        first_with(VaeEngine.IN_PROCESS, asked("720x1280", doors=doors), "141") for doors in ((UNARY,), (UNARY, STREAM))
    )
    held = {use.component: use for use in both.memory_uses}
    assert held[STREAM].caches == held["vae_decoder"].caches == 2 * both.memory.largest_cache_set
    assert both.needed(0) - one.needed(0) == held[STREAM].total
    alone = placements(asked("720x1280", doors=(STREAM,)), gpus("141"), Layout.BOTH)[0]
    assert not {"denoiser", "vae_decoder"} & {use.component for use in alone.memory_uses}


def test_two_doors_decode_two_clips_at_a_time_through_triton() -> None:
    one, both = (
        first_with(VaeEngine.TRITON_PLANS, asked("480x832", doors=d), "141") for d in ((UNARY,), (UNARY, STREAM))
    )
    caches = [sum(use.caches for use in placement.memory_uses) for placement in (one, both)]
    assert caches[1] == 2 * caches[0] == 8 * one.memory.largest_cache_set


def test_who_swaps_the_experts_is_on_their_gpu() -> None:
    """It waits for memory of its own GPU to come free."""
    found = placements(asked("480x832", doors=(STREAM,)), gpus("80", "80"), Layout.ONE_AT_A_TIME)
    assert found and all(placement.stream == 0 for placement in found)


def test_the_text_encoder_on_the_cpu_is_offered_first_where_a_gpu_was_asked_for() -> None:
    first, *_ = find_alternatives(asked("480x832", text_encoder_device="gpu"), gpus("80"))
    assert first.change.startswith("text encoder on the CPU, ")
    assert first.placement is not None and first.placement.layout is Layout.BOTH
    assert "text encoder" not in find_alternatives(asked("480x832"), gpus("80"))[0].change


def test_one_door_alone_is_offered_last() -> None:
    *_, last = find_alternatives(asked("720x1280", doors=(UNARY, STREAM)), gpus("80"))
    assert last.change.startswith("one door only (--door stream)")
    assert last.placement is not None and last.placement.layout is Layout.ONE_AT_A_TIME
