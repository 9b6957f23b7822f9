"""A gateway in its own process, which can be killed, and a database that outlives it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from embedded.ports import free_ports
from tests.stress.faults.victim import LIMIT_S
from tests.waiting import becomes_true

POLL_S = 0.02  # a generation's steps are short


@dataclass(frozen=True)
class Place:
    """Start options of a test's gateways: the server, the database, the folder of files, the log."""

    server_url: str
    database_url: str
    data: Path
    log: Path


@dataclass(frozen=True)
class GatewayProcess:
    """A running gateway."""

    process: subprocess.Popen[bytes]
    http: httpx.Client

    def post(self, webhook_url: str, **fields: Any) -> str:
        """Create a job and return its id."""
        answer = self.http.post("/v1/videos", json={"prompt": "a red ball", "webhook_url": webhook_url, **fields})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def video(self, video_id: str) -> dict[str, Any]:
        """Return the video's record. Empty while the gateway is unavailable."""
        with contextlib.suppress(httpx.HTTPError):
            answer = self.http.get(f"/v1/videos/{video_id}")
            if answer.status_code == 200:
                return dict(answer.json())
        return {}

    def until_step(self, video_id: str, step: int) -> bool:
        """Wait until this step is done. Returns whether it was done within the limit."""
        return until(lambda: self.video(video_id).get("now", {}).get("step", 0) >= step)

    def until_ended(self, video_id: str) -> dict[str, Any]:
        """Wait until the video has ended, or for the limit, and return its record."""
        until(lambda: self.video(video_id).get("status") in ("completed", "failed", "cancelled"))
        return self.video(video_id)

    def kill(self) -> None:
        """Kill it with SIGKILL, as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()


def until(condition: Any, limit_s: float = LIMIT_S) -> bool:
    """Wait for a condition. Returns False if it is not met within the limit."""
    return becomes_true(condition, limit_s, poll_s=POLL_S)


@contextlib.contextmanager
def running_gateway(place: Place, *, workers: int = 1, resumes: bool = True) -> Iterator[GatewayProcess]:
    """Start a gateway, and stop it at the end if it still runs. Raises RuntimeError if it does not start."""
    (port,) = free_ports(1, "127.0.0.1")
    command = [sys.executable, "-m", "wan_t2v_gateway", "--url", place.server_url, "--database-url", place.database_url]
    command += ["--data", str(place.data), "--port", str(port), "--webhook-host", "127.0.0.1"]
    command += ["--resumes"] if resumes else []
    with place.log.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--workers", str(workers)], stdout=log, stderr=log, start_new_session=True
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:
        gateway = GatewayProcess(process, http)
        try:
            if not until(lambda: _is_up(gateway) or process.poll() is not None) or process.poll() is not None:
                raise RuntimeError(f"the gateway did not start: {place.log.read_text()[-2000:]}")
            yield gateway
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                gateway.kill()


def _is_up(gateway: GatewayProcess) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return gateway.http.get("/healthz").status_code == 200
    return False


@contextlib.contextmanager
def stopped_database(data: Path) -> Iterator[None]:
    """Stop all processes of the Postgres in `data` with SIGSTOP inside the context."""
    postmaster = psutil.Process(int((data / "postmaster.pid").read_text().split("\n")[0]))
    processes = [postmaster, *postmaster.children(recursive=True)]
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal([postmaster, *postmaster.children(recursive=True), *processes], signal.SIGCONT)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
