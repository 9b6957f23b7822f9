"""What is proposed where both experts do not fit, in which order."""

from export.placement.alternatives import find_alternatives
from export.placement.layouts import Layout
from tests.unit.export.placement.arrangements import asked, gpus
from wan_t2v.contract import STREAM, UNARY


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


def test_the_text_encoder_on_the_cpu_is_offered_first_where_a_gpu_was_asked_for() -> None:
    first, *_ = find_alternatives(asked("480x832", text_encoder_device="gpu"), gpus("80"))
    assert first.change.startswith("text encoder on the CPU, ")
    assert first.placement is not None and first.placement.layout is Layout.BOTH
    assert "text encoder" not in find_alternatives(asked("480x832"), gpus("80"))[0].change


def test_one_endpoint_alone_is_offered_last() -> None:
    *_, last = find_alternatives(asked("720x1280", endpoints=(UNARY, STREAM)), gpus("80"))
    assert last.change.startswith("one endpoint only (--door stream)")
    assert last.placement is not None and last.placement.layout is Layout.ONE_AT_A_TIME
