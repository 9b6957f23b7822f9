"""Jobs: their order, cancel, idempotency, content and events."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fakes.scripted_server import MADE, VIDEO, Beat, Pause, Step, Video, serving

Start = Callable[..., Any]


def events(text: str) -> list[tuple[str | None, str, dict[str, Any]]]:
    """Id, kind and data of each event."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [(block.get("id"), block["event"], json.loads(block["data"])) for block in blocks]


def test_an_owners_jobs_run_in_the_order_of_arrival(start: Start) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        ids = [gateway.post(prompt=str(number)) for number in range(20)]
        gateway.until(ids[-1], "completed")
        assert server.prompts() == [str(number) for number in range(20)]
        assert server.most_at_once == 1


def test_a_hundred_jobs_of_one_do_not_delay_anothers_first(start: Start, database_url: str) -> None:
    import asyncio

    from wan_t2v_gateway.database.owners import make_key
    from wan_t2v_gateway.database.pool import Database

    with serving((Step(1), Pause()), MADE) as server:
        gateway = start(server_url=server.url)

        async def keys() -> list[str]:
            database = Database(database_url)
            await database.open()
            made = [await make_key(database, name) for name in ("many", "few")]
            await database.close()
            return made

        many, few = ({"authorization": f"Bearer {key}"} for key in asyncio.run(keys()))

        def post(prompt: str, headers: dict[str, str]) -> str:
            return str(gateway.http.post("/v1/videos", json={"prompt": prompt}, headers=headers).json()["id"])

        running = post("runs", many)
        assert server.began.wait(10)
        for number in range(10):
            post(f"many {number}", many)
        ids = [post(f"few {number}", few) for number in range(2)]
        assert gateway.http.get("/v1/videos").status_code == 401
        assert gateway.http.get(f"/v1/videos/{running}", headers=few).status_code == 404
        gateway.http.post(f"/v1/videos/{running}/cancel", headers=many)
        for video_id in ids:
            while gateway.http.get(f"/v1/videos/{video_id}", headers=few).json()["status"] != "completed":
                pass
        prompts = server.prompts()
        assert prompts.index("few 0") <= 1 + 1 and prompts.index("few 1") <= 4


def test_a_cancelled_job_stops_or_never_starts(start: Start) -> None:
    with serving((Step(1), Pause()), MADE) as server:
        gateway = start(server_url=server.url)
        running, waiting = gateway.post(prompt="runs"), gateway.post(prompt="waits")
        assert server.began.wait(10)
        assert gateway.video(waiting)["queue"]["ahead"] == 0
        assert gateway.http.post(f"/v1/videos/{waiting}/cancel").json()["status"] == "cancelled"
        gateway.http.post(f"/v1/videos/{running}/cancel")
        assert server.cancelled.wait(10)
        assert gateway.until(running, "cancelled")["error"] is None
        gateway.until(gateway.post(prompt="later"), "completed")
        assert server.prompts() == ["runs", "later"]
        assert "wan_t2v_gateway_cancel_seconds_count 1" in gateway.http.get("/metrics").text


def test_delete_stops_the_work_and_leaves_nothing(start: Start, tmp_path: Any) -> None:
    with serving(MADE, (Step(1), Pause())) as server:
        gateway = start(server_url=server.url)
        done = gateway.post()
        gateway.until(done, "completed")
        running = gateway.post()
        gateway.until(running, "in_progress")
        while len(server.requests) < 2:
            pass
        for video_id in (running, done):
            assert gateway.http.delete(f"/v1/videos/{video_id}").json()["deleted"]
            assert gateway.http.get(f"/v1/videos/{video_id}").status_code == 404
        assert server.cancelled.wait(10)
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_the_same_key_and_body_is_the_same_job(start: Start) -> None:
    gateway = start(workers=0)

    def post(prompt: str) -> Any:
        return gateway.http.post("/v1/videos", json={"prompt": prompt}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, ["one"] * 8))
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = post("two")
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


def test_events_are_told_once_and_taken_up_again(start: Start) -> None:
    with serving((Beat(), Step(1), Step(2), Video())) as server:
        gateway = start(server_url=server.url)
        video_id = gateway.post()
        told = events(gateway.http.get(f"/v1/videos/{video_id}/events").text)
    kinds = [kind for _, kind, _ in told if kind != "queue"]
    assert kinds == ["queued", "stage", "step", "step", "completed"]
    first_step = next(entry for entry in told if entry[1] == "step")
    assert first_step[2]["percent"] == 50 and first_step[2]["expert"] == "low_noise_expert"
    rest = gateway.http.get(f"/v1/videos/{video_id}/events", headers={"Last-Event-ID": first_step[0]}).text
    assert [kind for _, kind, _ in events(rest)] == ["step", "completed"]


def test_content_comes_whole_in_ranges_and_not_again(start: Start) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        video_id = gateway.post()
        gateway.until(video_id, "completed")
    path = f"/v1/videos/{video_id}/content"
    whole = gateway.http.get(path)
    assert (whole.content, whole.headers["content-type"]) == (VIDEO, "video/mp4")
    assert f"{video_id}.mp4" in whole.headers["content-disposition"]
    for wanted, body in {"bytes=1-2": VIDEO[1:3], "bytes=3-": VIDEO[3:], "bytes=-2": VIDEO[-2:]}.items():
        part = gateway.http.get(path, headers={"range": wanted})
        assert (part.status_code, part.content) == (206, body)
    assert gateway.http.get(path, headers={"range": "bytes=99-"}).status_code == 416
    assert gateway.http.get(path, headers={"if-none-match": whole.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("body", "status"), [("[" * 100_000, 400), ('{"prompt": ' + '"x' * 200_000, 413), ("[]", 400), ("{}", 400)]
)
def test_a_bad_body_is_refused_in_the_dialects_shape(start: Start, body: str, status: int) -> None:
    answer = start(workers=0).http.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, *answer.json()["error"]) == (status, "message", "type", "param", "code")


def test_a_text_that_postgres_cannot_keep_is_refused(start: Start) -> None:
    """Wherever it comes from: a body, an address, a key."""
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        answers = [
            *(gateway.http.post("/v1/videos", content=f'{{"prompt": "{text}"}}') for text in ("a\\u0000b", "\\ud800")),
            gateway.http.get("/v1/videos/a%00b"),
            gateway.http.get("/v1/videos?after=%00"),
        ]
    assert [answer.status_code for answer in answers] == [400] * 4
    assert all("cannot be kept" in answer.json()["error"]["message"] for answer in answers)
