"""Run tritonserver with the stack size that large HTTP bodies need, and pass signals on to it.

python3 -m deploy.image.serve --model-repository=/repository ...

All options are tritonserver's. Where they name a prefix of the Python processes' shared memory, what an earlier server
left under it is removed first: in a pod it outlives the container, and nothing else counts it or frees it.

tritonserver is a child of this process, since it handles no signal before all its models are loaded, and the kernel
keeps a signal that has no handler from a container's first process. That pod would hold its GPUs for its whole grace
period.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

from wan_t2v.operate.shared_memory import FOLDER, remove_regions
from wan_t2v.operate.stack import deepen_stack

PROGRAM = "tritonserver"
REGION_PREFIX = "--backend-config=python,shm-region-prefix-name="
PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str]) -> int:
    """Run tritonserver to its end and return its exit code, as a shell does: 128 and the signal that ended it."""
    deepen_stack()
    early: list[int] = []  # signals before there is a server: the handlers come first, so that none is lost
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: early.append(received))
    if prefix := region_prefix(arguments):
        _remove_leftovers(prefix)
    try:
        server = subprocess.Popen([PROGRAM, *arguments], restore_signals=False)  # SIGPIPE stays ignored
    except OSError as error:
        sys.exit(f"error: {PROGRAM} cannot be run ({error.strerror}): this is for the image, where it is on PATH")
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: server.send_signal(received))
    for received in early:
        server.send_signal(received)
    code = server.wait()
    return 128 - code if code < 0 else code


def _remove_leftovers(prefix: str) -> None:
    try:
        remove_regions(FOLDER, prefix)
    except OSError as error:  # such as of another user's: they take room, and the server starts all the same
        print(f"{PROGRAM}: shared memory of an earlier server stays: {error}", file=sys.stderr)


def region_prefix(arguments: Sequence[str]) -> str:
    """Return the prefix that the options name; empty for Triton's default, which other servers in /dev/shm have too."""
    named = [argument.removeprefix(REGION_PREFIX) for argument in arguments if argument.startswith(REGION_PREFIX)]
    return named[-1] if named else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
