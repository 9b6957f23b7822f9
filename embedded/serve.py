"""`make serve`: run the embedded server in the foreground until Ctrl-C, SIGTERM, or SIGHUP of a closed terminal."""

import argparse
import contextlib
import sys
from pathlib import Path

from embedded.errors import ServerError, StartStopped
from embedded.options import LOOPBACK, ServerOptions
from embedded.server import CommandEnd, running_server, say

MOST_START_S = 86_400


def main(arguments: list[str] | None = None) -> int:
    """Serve; print the supervisor's events to standard error. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m embedded.serve", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on for gRPC (default: %(default)s)")
    for protocol in ("http", "metrics"):
        parser.add_argument(
            f"--{protocol}-host", default="", help="address to listen on (default: HOST if loopback, else 127.0.0.1)"
        )
    parser.add_argument(
        "--log", type=Path, default=Path("build/server.log"), help="Triton's log (default: %(default)s)"
    )
    parser.add_argument("--models", nargs="+", default=(), help="the models to load (default: all of the repository)")
    parser.add_argument(
        "--config-name", default="cpu", help="config set, such as placement's --out (default: %(default)s)"
    )
    parser.add_argument(
        "--cuda-pool-bytes", type=_bytes, help="Triton's memory pool on the first GPU (default: Triton's)"
    )
    parser.add_argument(
        "--start-limit-s", type=_seconds, default=180.0, help="longest start in seconds (default: %(default)g)"
    )
    parser.add_argument("--traces-url", default="", help="OpenTelemetry collector, such as http://host:4318/v1/traces")
    for port, default in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(f"--{port}-port", type=int, default=default, help="0 for a free one (default: %(default)s)")
    raw = vars(parser.parse_args(arguments))
    options = ServerOptions(**{**raw, "models": tuple(raw["models"])})
    end, failed = CommandEnd(), False
    end.heed_signals()
    say(f"starting the server (log: {options.log}) ...")
    try:
        with running_server(options, on_event=end.tell, stop=end.stop) as server:
            say(f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}")
            say(f"run directory (python -m wan_t2v.operate): {server.run_directory}")
            end.stop.wait()
            say("stopping ...")
            failed = end.by_itself
    except StartStopped:
        say("stopped before it was ready")
    except ServerError as error:
        say(f"error: {error}")
        return 1
    return 1 if failed else 0


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= MOST_START_S:
            return float(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: seconds above 0, up to {MOST_START_S}")


def _bytes(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a whole number of bytes from 0")


if __name__ == "__main__":
    sys.exit(main())
