"""Fuzzing of a gateway with its own Postgres in front of a server: thousands of bad calls and all abuses."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg
from tqdm import tqdm
from wan_t2v_gateway.database.local_postgres import local_postgres
from wan_t2v_gateway.database.owners import make_key
from wan_t2v_gateway.database.pool import Database

from tests.stress.faults.gateway.process import GatewayProcess, Place, running_gateway, until
from tests.stress.fuzz.gateway import bad_bodies, bad_calls, bad_forms
from tests.stress.fuzz.gateway.abuses import abuses, suffered
from tests.stress.fuzz.gateway.calls import BUSY, MOST_TRIES, Draw, fault_of, send

CLIENTS = 4
MOST_GROWTH_BYTES = 2**28
JOB = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1, "seed": 1}
SHARE_OF_STRANGERS = 8  # one call in this many


@dataclass
class Findings:
    """Calls sent by kind, the slowest answer, and the faults."""

    sent: Counter[str] = field(default_factory=Counter)
    abuses: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the figures for the last line."""
        return {
            "gateway_calls": self.sent.total(),
            "gateway_classes": len(self.sent),
            "gateway_abuses": self.abuses,
            "gateway_slowest_s": round(self.slowest_s, 1),
        }


@dataclass(frozen=True)
class Target:
    """The gateway, and the state behind it that a refused call must not change."""

    gateway: GatewayProcess
    place: Place
    requests_seen: Callable[[], int]
    findings: Findings

    @property
    def url(self) -> str:
        """Base URL of the gateway."""
        return str(self.gateway.http.base_url)

    def behind(self) -> tuple[int, int, int]:
        """Count videos and jobs in the database, and requests at the server."""
        with psycopg.connect(self.place.database_url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM videos), (SELECT count(*) FROM procrastinate_jobs)"
            ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), self.requests_seen()

    @contextlib.contextmanager
    def unmoved(self, what: str) -> Iterator[None]:
        """Note a fault if these counts change inside the context."""
        before = self.behind()
        yield
        after = self.behind()
        if after != before:
            self.findings.faults.append(
                f"{what}: videos, jobs and requests at the server went from {before} to {after}"
            )

    def right_job(self) -> str:
        """Send a valid request, wait for its video and return its id. Notes faults."""
        before = self.requests_seen()
        answer = self._posted()
        video_id = str(answer.json().get("id", ""))
        record = self.gateway.until_ended(video_id) if video_id else {}
        if record.get("status") != "completed":
            self.findings.faults.append(f"a right job ended as {record or answer.text[:200]}")
        elif not self.gateway.http.get(f"/v1/videos/{video_id}/content").content:
            self.findings.faults.append("a right job has no content")
        elif not until(lambda: self.requests_seen() > before):
            self.findings.faults.append("the server did not count a right job")
        return video_id

    def _posted(self) -> httpx.Response:
        for _ in range(MOST_TRIES):
            answer = self.gateway.http.post("/v1/videos", json={"prompt": "a red ball", **JOB})
            if answer.status_code != BUSY:
                break
        return answer

    def knows_what_is_served(self) -> bool:
        """Whether the gateway has the server's limits."""
        answer = self.gateway.http.get("/v1/models").json()
        return any(model["limits"] for model in answer.get("data", ()))


def gateway_fuzzed(
    server_url: str, folder: Path, *, count: int, seed: int, requests_seen: Callable[[], int]
) -> Findings:
    """Start a gateway in front of the server, and send `count` bad calls and every abuse."""
    findings = Findings()
    folder.chmod(0o755)  # as root, Postgres runs as user nobody, who needs access
    with local_postgres(folder / "gateway-database", durable=False) as database_url:
        place = Place(server_url, database_url, folder / "gateway-data", folder / "gateway.log")
        with running_gateway(place, resumes=False) as gateway:
            _all_tried(Target(gateway, place, requests_seen, findings), count, seed)
            if gateway.process.poll() is not None:
                findings.faults.append("the gateway ended")
        if "Traceback" in (log := place.log.read_text(errors="replace")):
            findings.faults.append(f"the gateway's log has a traceback: {log[log.index('Traceback') :][:2000]}")
    return findings


def _all_tried(target: Target, count: int, seed: int) -> None:
    """Send all kinds: first without keys, then with the key of an owner for another owner's videos."""
    process = psutil.Process(target.gateway.process.pid)
    if not until(target.knows_what_is_served):
        target.findings.faults.append("the gateway does not know what the server serves")
    done, resident = target.right_job(), process.memory_info().rss
    classes = {**bad_bodies.TRANSLATED, **bad_bodies.FIELDS, **bad_forms.CLASSES, **bad_calls.classes(done)}
    with target.unmoved("bad calls"):
        _called(target, classes, count, seed=seed)
    with target.unmoved("abuses"):
        _abused(target, done)
    grown = process.memory_info().rss - resident
    if grown > MOST_GROWTH_BYTES:
        target.findings.faults.append(f"the gateway grew by {grown >> 20} MiB")
    target.right_job()
    mine, others = (asyncio.run(_key(target.place.database_url, name)) for name in ("mine", "others"))
    with target.unmoved("calls of strangers"):
        _called(target, bad_calls.classes_of_strangers(done, mine), count // SHARE_OF_STRANGERS, seed=seed)
    target.gateway.http.headers["authorization"] = f"Bearer {others}"
    target.right_job()


async def _key(database_url: str, name: str) -> str:
    async with Database(database_url) as database:
        return await make_key(database, name)


def _called(target: Target, classes: Mapping[str, Draw], count: int, *, seed: int) -> None:
    """Send calls of all classes in turn, four concurrently."""
    names = list(classes)

    def one(index: int) -> tuple[str, float, str | None]:
        name = names[index % len(names)]
        call = classes[name](np.random.default_rng((seed, index)))
        answer = send(target.url, call)
        fault = fault_of(call, answer)
        return name, answer.seconds, None if fault is None else f"{name}, number {index}, {call.method}: {fault}"

    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(tqdm(pool.map(one, range(count)), desc="bad calls of the gateway", unit="call", total=count))
    findings = target.findings
    findings.sent.update(name for name, _, _ in outcomes)
    findings.slowest_s = max(findings.slowest_s, *(seconds for _, seconds, _ in outcomes))
    findings.faults += [fault for _, _, fault in outcomes if fault]


def _abused(target: Target, done: str) -> None:
    """Commit all abuses concurrently, since most hold a connection for long. Other callers must be served meanwhile."""
    tried = abuses(done)
    with ThreadPoolExecutor(len(tried)) as pool:
        running = [pool.submit(suffered, target.url, name, abuse) for name, abuse in tried.items()]
        served = 0
        while not all(one.done() for one in running):
            answer = target.gateway.http.get("/v1/videos", timeout=30)
            served += answer.status_code == 200
    target.findings.abuses += len(tried)
    target.findings.faults += [fault for one in running if (fault := one.result())]
    if not served:
        target.findings.faults.append("nobody was served during the abuses")
