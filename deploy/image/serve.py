"""Replace this process by tritonserver, with the stack size that large HTTP bodies need.

python3 -m deploy.image.serve --model-repository=/repository ...

All options are tritonserver's. The process id stays the same, so signals and exit codes are tritonserver's own.
"""

import os
import sys

from wan_t2v.operate.stack import deepen_stack

PROGRAM = "tritonserver"


def main(arguments: list[str]) -> None:
    """Raise the stack limit and execute tritonserver. Never returns: exits with a message if it cannot be run."""
    deepen_stack()
    try:
        os.execvp(PROGRAM, [PROGRAM, *arguments])  # noqa: S606 - in this process's place
    except OSError as error:
        sys.exit(f"error: {PROGRAM} cannot be run ({error.strerror}): this is for the image, where it is on PATH")


if __name__ == "__main__":
    main(sys.argv[1:])
