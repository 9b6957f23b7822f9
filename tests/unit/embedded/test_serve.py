"""`make serve`: its exit code tells how it ended."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embedded import serve
from embedded.options import ServerOptions
from embedded.server import CommandEnd, Stop

READY = SimpleNamespace(
    grpc_url="127.0.0.1:1", http_url="http://127.0.0.1:2", metrics_url="http://127.0.0.1:3/metrics", run_directory="run"
)


@pytest.mark.parametrize(
    ("happens", "code"),
    [(None, 0), ({"event": "failed", "error": "it ended by itself"}, 1), ({"event": "ended"}, 1)],
    ids=["stopped", "failed", "ended"],
)
def test_a_server_that_failed_for_good_is_a_failure_and_a_stop_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], happens: dict[str, Any] | None, code: int
) -> None:
    served: list[ServerOptions] = []

    @contextlib.contextmanager
    def running_server(
        options: ServerOptions, *, on_event: Callable[[dict[str, Any]], None], stop: Stop
    ) -> Iterator[SimpleNamespace]:
        served.append(options)
        stop.set() if happens is None else on_event(happens)
        yield READY
        on_event({"event": "ended"})  # as each supervisor does when it is stopped

    monkeypatch.setattr(CommandEnd, "heed_signals", lambda end: None)
    monkeypatch.setattr(serve, "running_server", running_server)
    placed = ["--config-name", "torch", "--cuda-pool-bytes", "536870912", "--start-limit-s", "2400"]
    assert serve.main(["--log", "second.log", "--models", "prepare", "denoiser", *placed]) == code
    (options,) = served
    assert (options.log, options.models) == (Path("second.log"), ("prepare", "denoiser"))
    assert (options.config_name, options.cuda_pool_bytes, options.start_limit_s) == ("torch", 536870912, 2400.0)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("event=")]
    assert told == ([] if happens is None else [" ".join(f"{key}={value}" for key, value in happens.items())])


@pytest.mark.parametrize("option", ["--start-limit-s=nan", "--start-limit-s=0", "--start-limit-s=inf",
                                    "--cuda-pool-bytes=-1", "--cuda-pool-bytes=1e9"])  # fmt: skip
def test_a_limit_that_is_none_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main([option])
    assert f"got {option.partition('=')[2]!r}; accepted: " in capsys.readouterr().err


SERVE = """
import contextlib, sys
from types import SimpleNamespace
from embedded import serve

@contextlib.contextmanager
def running_server(options, *, on_event, stop):
    addresses = dict.fromkeys(("grpc_url", "http_url", "metrics_url", "run_directory"), "")
    if sys.argv[1] == "failed":
        on_event({"event": "failed"})
    else:
        stop.set()
    yield SimpleNamespace(**addresses)

serve.running_server = running_server
sys.exit(serve.main([]))
"""


@pytest.mark.parametrize(("happens", "code"), [("failed", 1), ("stopped", 0)])
@pytest.mark.parametrize("opened", [os.pipe, os.openpty], ids=["pipe", "terminal"])
def test_the_exit_code_is_the_same_if_nobody_reads_any_more(
    opened: Callable[[], tuple[int, int]], happens: str, code: int, root: Path
) -> None:
    """As of `make serve 2>&1 | head -1`, or after its terminal was closed."""
    reader, writer = opened()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with os.fdopen(writer, "wb") as nobody:
        command = [sys.executable, "-c", SERVE, happens]
        assert subprocess.run(command, cwd=root, env=environment, stderr=nobody, check=False).returncode == code
