"""`make demo`: start the server, make one video with the client's command, stop the server, print one JSON object."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.process.confinement import end_with_parent, prepare_fork
from embedded.process.stop_signals import interrupted_by_signals
from embedded.server import running_server, say
from wan_t2v.contract import MODELS_OF_ENDPOINT, STREAM

_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; unknown arguments go to `wan-t2v generate`. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m embedded.demo", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=_file, default="out/demo.mp4", help="a file (default: %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=Path("build/demo-server.log"), help="Triton's log (default: %(default)s)"
    )
    options, request = parser.parse_known_args(arguments)
    models = MODELS_OF_ENDPOINT[STREAM]  # the command calls only this endpoint
    server_options = ServerOptions(repository=options.repository, log=options.log, models=models)
    say("starting the server ...")
    try:
        with interrupted_by_signals(), running_server(server_options) as server:
            say(f"server ready at {server.grpc_url}, generating ...")
            finished = _generate(["--url", server.grpc_url, "--out", options.out, *request])
    except ServerError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if finished.returncode == 0:
        video = json.loads(finished.stdout)
        print(json.dumps({key: video[key] for key in video if key != "metadata"}))
    return finished.returncode


def _generate(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run the client's command, which ends with this process."""
    command = [sys.executable, "-m", "wan_t2v_client.cli.main", "generate", "--json", *arguments]
    prepare_fork()
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent)


def _file(text: str) -> str:
    """Parse the path of the video; it stays a text, of which a slash at the end means a folder to the client."""
    if text in _STANDARD_OUTPUT:
        raise argparse.ArgumentTypeError(f"{text!r} would mix the video with the demo's own output; a file is needed")
    return text


if __name__ == "__main__":
    sys.exit(main())
