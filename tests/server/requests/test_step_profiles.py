"""Step profiles through both endpoints: nothing left out by default, and what is left out is the same each time."""

from typing import Any

from wan_t2v_client import Generation, Progress, TextToVideo

REQUEST: dict[str, Any] = {
    "prompt": "a red ball rolls left",
    "height": 32,
    "width": 32,
    "num_frames": 5,
    "num_inference_steps": 24,
    "seed": 3,
}


def streamed(client: TextToVideo, **fields: Any) -> tuple[list[Progress], Generation]:
    messages = list(client.stream(**REQUEST, **fields))
    answer = messages[-1]
    assert isinstance(answer, Generation)
    return [message for message in messages if isinstance(message, Progress)], answer


def test_exact_is_what_a_request_without_a_profile_gets(client: TextToVideo) -> None:
    plain = client.generate_unary(**REQUEST)
    assert plain.metadata["settings"]["step_profile"] == "exact"
    assert (plain.metadata["passes"], plain.metadata["passes_saved"]) == ([2] * 24, 0)
    for fields in ({"step_profile": "exact"}, {"step_cache": 0.0, "guidance_skip": 0.0}):
        assert client.generate_unary(**REQUEST, **fields).video == plain.video
        assert streamed(client, **fields)[1].video == plain.video


def test_a_profile_leaves_the_same_passes_out_each_time_at_both_endpoints(client: TextToVideo) -> None:
    unary = client.generate_unary(**REQUEST, step_profile="fast")
    progress, answer = streamed(client, step_profile="fast")
    assert answer.video == unary.video and answer.video != client.generate_unary(**REQUEST).video
    passes = answer.metadata["passes"]
    assert passes == unary.metadata["passes"]
    assert answer.metadata["passes_saved"] == 48 - sum(passes) > 0
    assert [one.reused for one in progress] == [count == 0 for count in passes]


def test_guidance_is_left_out_at_the_end(client: TextToVideo) -> None:
    passes = client.generate_unary(**REQUEST, guidance_skip=0.5).metadata["passes"]
    low = client.generate_unary(**REQUEST).metadata["steps"]["low_noise_expert"]
    skipped = -(-low // 2)
    assert passes == [2] * (24 - skipped) + [1] * skipped
