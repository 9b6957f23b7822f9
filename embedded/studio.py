"""`make studio`: the embedded server and the gateway before it, on loopback, until Ctrl-C."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from embedded.errors import ServerError, StartStopped
from embedded.options import LOOPBACK, ServerOptions
from embedded.ports import Listener, choose_ports
from embedded.process.confinement import end_with_parent, prepare_fork
from embedded.server import CommandEnd, Stop, running_server, say

CHECKPOINTS = "WAN_T2V_CHECKPOINT_DIR"
STOP_LIMIT_S = 30
POLL_S = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Run both; unfinished jobs resume at the next start. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m embedded.studio", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--port", type=int, default=8080, help="port of the page (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("out/studio"), help="jobs and videos (default: %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=Path("build/studio-server.log"), help="Triton's log (default: %(default)s)"
    )
    parser.add_argument("--traces-url", default="", help="OpenTelemetry collector for the spans of both")
    options = parser.parse_args(arguments)
    end = CommandEnd()
    end.heed_signals()
    try:
        choose_ports([Listener("PORT", options.port, LOOPBACK)])  # known before the server's start, which takes long
        os.environ.setdefault(CHECKPOINTS, str(_make_folder(options.data / "generations")))
        return _run(options, end)
    except StartStopped:
        return 0
    except ServerError as error:
        say(f"error: {error}")
        return 1


def _make_folder(folder: Path) -> Path:
    """Make the folder of generations under way. Raises ServerError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError as error:
        raise ServerError(
            f"the folder {folder} cannot be written ({error.strerror}): choose another with --data (make: DATA=...)"
        ) from None


def _run(options: argparse.Namespace, end: CommandEnd) -> int:
    """Run the server, and the gateway once it is ready. Returns an exit code."""
    say("starting the server and the gateway ...")
    server_options = ServerOptions(repository=options.repository, log=options.log, traces_url=options.traces_url)
    with running_server(server_options, on_event=end.tell, stop=end.stop) as server:
        code = _gateway(server.grpc_url, options, end.stop)
        return 1 if end.by_itself else code


def _gateway(url: str, options: argparse.Namespace, stop: Stop) -> int:
    """Run the gateway until `stop` is set or it ends by itself. The server is stopped after it."""
    command = [sys.executable, "-m", "wan_t2v_gateway", "--url", url, "--resumes"]
    command += ["--port", str(options.port), "--data", str(options.data), "--traces-url", options.traces_url]
    prepare_fork()
    # in its own session, so that Ctrl-C reaches it only through us, as one SIGTERM
    gateway = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)
    try:
        while not stop.wait(POLL_S):
            if (code := gateway.poll()) is not None:
                say(f"error: the gateway ended with exit code {code}; its messages are above")
                return 1
        say("stopping ...")
        return 0
    finally:
        gateway.terminate()
        try:
            gateway.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            gateway.kill()
            gateway.wait()


if __name__ == "__main__":
    sys.exit(main())
