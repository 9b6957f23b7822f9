"""The entry point of the command `wan-t2v`."""

import os
import sys
from collections.abc import Sequence

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC logs to standard error, and reads this when it is imported
    try:
        from wan_t2v_client.cli.command_line import run

        return run(arguments)
    except KeyboardInterrupt:  # while the libraries were being imported
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
