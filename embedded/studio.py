"""`make studio`: the embedded server and the gateway before it, on loopback, until Ctrl-C."""

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from embedded.errors import ServerError, StartStopped
from embedded.options import ServerOptions
from embedded.server import running_server

CHECKPOINTS = "WAN_T2V_CHECKPOINT_DIR"
STOP_LIMIT_S = 30
POLL_S = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Run both; unfinished jobs resume at the next start. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m embedded.studio", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--port", type=int, default=8080, help="port of the page (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("out/studio"), help="jobs and videos (default: %(default)s)")
    parser.add_argument("--traces-url", default="", help="OpenTelemetry collector for the spans of both")
    options = parser.parse_args(arguments)
    kept = (options.data / "generations").resolve()
    kept.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(CHECKPOINTS, str(kept))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: stop.set())
    print("starting the server and the gateway ...", file=sys.stderr)
    server_options = ServerOptions(
        repository=options.repository, log=Path("build/studio-server.log"), traces_url=options.traces_url
    )
    try:
        with running_server(server_options, on_event=lambda event: _tell(event, stop), stop=stop) as server:
            return _gateway(server.grpc_url, options, stop)
    except StartStopped:
        return 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _gateway(url: str, options: argparse.Namespace, stop: threading.Event) -> int:
    """Run the gateway until `stop` is set or it ends by itself. The server is stopped after it."""
    command = [sys.executable, "-m", "wan_t2v_gateway", "--url", url, "--resumes"]
    command += ["--port", str(options.port), "--data", str(options.data), "--traces-url", options.traces_url]
    # in its own session, so that Ctrl-C reaches it only through us, as one SIGTERM
    gateway = subprocess.Popen(command, start_new_session=True)
    try:
        while not stop.wait(POLL_S):
            if gateway.poll() is not None:
                print("error: the gateway ended", file=sys.stderr)
                return 1
        print("stopping ...", file=sys.stderr)
        return 0
    finally:
        gateway.terminate()
        try:
            gateway.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            gateway.kill()
            gateway.wait()


def _tell(event: dict[str, Any], stop: threading.Event) -> None:
    if event["event"] == "ended" and stop.is_set():
        return  # the expected end of a stop
    print(" ".join(f"{key}={value}" for key, value in event.items()), file=sys.stderr)
    if event["event"] in ("failed", "ended"):
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
