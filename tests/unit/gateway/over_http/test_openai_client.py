"""The official `openai` package is a client of the Videos dialect."""

import warnings
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.fakes.scripted_server import VIDEO, Pause, Refusal, Step, Video, serving

warnings.simplefilter("ignore", DeprecationWarning)


def client_of(gateway: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def test_create_poll_list_download_remix_delete(start: Callable[..., Any]) -> None:
    with serving((Step(1), Step(2), Video())) as server:
        client = client_of(start(server_url=server.url))
        video = client.videos.create_and_poll(
            prompt="a red ball", seconds="1", size="48x32", extra_body={"seed": "7"}, poll_interval_ms=20
        )
        assert (video.status, video.progress, video.seconds, video.size) == ("completed", 100, "0.3125", "48x32")
        assert client.videos.download_content(video.id).read() == VIDEO
        remixed = client.videos.remix(video.id, prompt="a blue ball")
        assert (remixed.remixed_from_video_id, remixed.prompt) == (video.id, "a blue ball")
        client.videos.poll(remixed.id, poll_interval_ms=20)
        assert [entry.id for entry in client.videos.list()] == [remixed.id, video.id]
        assert [entry.id for entry in client.videos.list(limit=1, order="asc")] == [video.id, remixed.id]
        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
    first, second = server.requests
    assert server.prompts() == ["a red ball", "a blue ball"]
    assert [x.raw_input_contents[1:] for x in (first,)] == [x.raw_input_contents[1:] for x in (second,)]


def test_what_cannot_be_served_names_its_field(start: Callable[..., Any]) -> None:
    client = client_of(start(workers=0))
    for field, body in {
        "size": {"size": "1280*720"},
        "seconds": {"seconds": "-1"},
        "input_reference": {"input_reference": "x"},
        "num_frames": {"num_frames": 6},
        "promt": {"promt": "x"},
        "seed": {"seed": "1.5"},
        "model": {"model": "sora-2"},
    }.items():
        with pytest.raises(openai.BadRequestError) as refusal:
            client.videos.create(prompt="a red ball", extra_body=body)
        assert refusal.value.param == field


def test_a_refusal_of_the_server_fails_the_job_with_its_words(start: Callable[..., Any]) -> None:
    words = "height: got 30; accepted: a multiple of 16. Nearest: 32."
    with serving((Refusal("INVALID_ARGUMENT", words, field="height"),)) as server:
        gateway = start(server_url=server.url)
        video = client_of(gateway).videos.create_and_poll(prompt="a ball", poll_interval_ms=20)
    assert video.status == "failed" and video.error is not None
    assert (video.error.code, video.error.message) == ("invalid_request", words)
    assert gateway.video(video.id)["error"]["param"] == "height"


def test_polling_ends_when_somebody_cancels(start: Callable[..., Any]) -> None:
    with serving((Step(1), Pause())) as server:
        gateway = start(server_url=server.url)
        client = client_of(gateway)
        video = client.videos.create(prompt="a red ball")
        assert server.began.wait(10)
        gateway.http.post(f"/v1/videos/{video.id}/cancel")
        assert server.cancelled.wait(10)
        assert client.videos.poll(video.id, poll_interval_ms=20).status == "cancelled"


def test_a_loop_over_the_list_may_delete_what_it_is_given(start: Callable[..., Any]) -> None:
    gateway = start(workers=0)
    client, made = client_of(gateway), {gateway.post() for _ in range(5)}
    deleted = {client.videos.delete(video.id).id for video in client.videos.list(limit=2)}
    assert deleted == made and gateway.http.get("/v1/videos").json()["data"] == []
