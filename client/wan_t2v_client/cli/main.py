"""The entry point of the command `wan-t2v`."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC logs to standard error, and reads this when it is imported
    try:
        from wan_t2v_client.cli.command_line import run

        return run(arguments)
    except KeyboardInterrupt:  # while the libraries were being imported
        return STOPPED


def run_and_exit() -> NoReturn:
    """Run the command and end the process at once.

    The interpreter's own end can wait for ever for a lock that one of gRPC's threads held when it was stopped.
    """
    try:
        code = main()
    except SystemExit as end:  # argparse has printed its help or an error
        code = int(end.code or 0)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed before or since; its end is reported
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run_and_exit()
