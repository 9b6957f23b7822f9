"""Become tritonserver, with the stack that large HTTP bodies need.

python3 -m deploy.image.serve --model-repository=/repository ...

All options are tritonserver's. The process stays the same one, so signals and exit codes are tritonserver's own.
"""

import os
import sys

from wan_t2v.operate.stack import deepen_stack

PROGRAM = "tritonserver"


def main(arguments: list[str]) -> None:
    """Never returns."""
    deepen_stack()
    try:
        os.execvp(PROGRAM, [PROGRAM, *arguments])  # noqa: S606 - in this process's place
    except OSError as error:
        sys.exit(f"error: {PROGRAM} cannot be run ({error.strerror}): this is for the image, where it is on PATH")


if __name__ == "__main__":
    main(sys.argv[1:])
