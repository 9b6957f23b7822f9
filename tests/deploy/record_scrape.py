"""`python -m tests.deploy.record_scrape`: end requests in every way that there is, and keep what the metrics say then.

Writes tests/deploy/scrape.txt from a real server, for tests/deploy/test_monitoring.py. Takes about three minutes.
"""

import os
import signal
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.calls import ENDPOINTS, LONG, SMALL, operate, samples, streamed, unary
from wan_t2v.operate.processes import stub_pids

SCRAPE = Path(__file__).parent / "scrape.txt"
PLACES = 17  # one runs and 16 wait, by configs/cpu.pbtxt
LIMIT_S = 120.0


def until_busy(server: Server, *, busy: bool) -> None:
    """Wait until something runs, or nothing does."""
    deadline = time.monotonic() + LIMIT_S
    while (samples(server)["wan_t2v_generations_in_flight"] > 0) is not busy:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server did not become {'busy' if busy else 'idle'}")
        time.sleep(0.2)


def finish(server: Server) -> None:
    """Videos at each endpoint, two of them with steps that are reused."""
    fast = {**SMALL, "num_inference_steps": 16, "step_profile": "fast"}
    for door, fields in ((unary, SMALL), (streamed, SMALL), (unary, fast), (streamed, fast)):
        if isinstance(answer := door(server, fields), str):
            raise RuntimeError(answer)


def refuse(server: Server) -> None:
    """A value that is not served, a deadline that cannot be met, more requests than places, a drain."""
    for door in ENDPOINTS.values():
        door(server, {**SMALL, "height": 17})
        door(server, LONG, timeout=1_000_000)
    with ThreadPoolExecutor(2 * PLACES) as pool:
        list(pool.map(lambda index: (unary, streamed)[index % 2](server, SMALL), range(2 * PLACES)))
    operate(server, "drain", "--wait-s", "60").wait(LIMIT_S)
    for door in ENDPOINTS.values():
        door(server, SMALL)
    operate(server, "undrain").wait(LIMIT_S)


def leave(server: Server) -> None:
    """Two callers who go after the first step."""
    for _ in range(2):
        with TextToVideo(Connection(server.grpc_url)) as client:
            stream = client.stream("a red ball", **LONG)
            next(stream)
            stream.close()
        until_busy(server, busy=False)


def fail(server: Server) -> None:
    """An expert's processes die under a video at each endpoint, and are repaired."""
    for door in (unary, streamed):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(door, server, LONG)
            until_busy(server, busy=True)
            time.sleep(1.0)
            for pid in stub_pids(server.pid)["high_noise_expert"]:
                os.kill(pid, signal.SIGKILL)
            asked.result(LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while isinstance(streamed(server, SMALL), str) and time.monotonic() < deadline:
            time.sleep(1.0)


def main() -> int:
    """Record. Returns an exit code."""
    with tempfile.TemporaryDirectory() as folder:
        options = ServerOptions(repository=Path("model_repository"), log=Path(folder) / "server.log")
        with running_server(options) as server:
            for act in (finish, refuse, leave, fail, finish):
                act(server)
            with urllib.request.urlopen(server.metrics_url) as answer:
                SCRAPE.write_bytes(answer.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
