"""A /dev/shm filled by refused requests: Triton frees no region, so the supervisor restarts the idle server."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.cleanup import SHM_PREFIX
from tests.stress.faults.starts import in_small_shared_memory, ready_address, serving, stop_serving
from tests.stress.faults.victim import SMALL, Outcome

SIZE_MIB, REFUSED_MIB = 128, 45  # two processes keep each refused tensor
RESTARTED, AGAIN = "event=restarted for its memory", "event=started again"


def filled_shared_memory(repository: Path, folder: Path) -> Outcome:
    """Send latents that are refused until shared memory is nearly full. Videos before and after must be equal.

    Raises MountRefused if this user may not mount a file system.
    """
    faults: list[str] = []
    with serving(repository, folder / "full.log", before=in_small_shared_memory(SIZE_MIB)) as launcher:
        url = ready_address(launcher)
        if url is None:
            return Outcome(
                f"refused tensors fill {SIZE_MIB} MiB of /dev/shm", ("it did not start",), 0.0, ("no start",)
            )
        before, told = video(url), refused(url)
        began = time.monotonic()
        assert launcher.stderr is not None
        events = list(until_again(iter(launcher.stderr)))
        after = video(url)
        recovered_s = round(time.monotonic() - began, 1)
        stop_serving(launcher)
    faults += [] if before == after and before else ["another video, or none"]
    restarts = [line for line in events if line.startswith(RESTARTED)]
    faults += [] if restarts else [f"it was not restarted: {events[-3:]}"]
    faults += ["an answer names a region"] if SHM_PREFIX in told else []
    return Outcome(f"refused tensors fill {SIZE_MIB} MiB of /dev/shm", (told, *restarts), recovered_s, tuple(faults))


def refused(url: str) -> str:
    """Send latents that do not fit the clip, and return the error that the caller gets."""
    side = int((REFUSED_MIB * 2**20 / 4 / 16) ** 0.5)
    with TextToVideo(Connection(url)) as client:
        try:
            client.generate("a red ball", latents=np.zeros((1, 16, 1, side, side), np.float32), **SMALL)
        except ClientError as error:
            return f"{type(error).__name__}: {error}"
    return "it was taken"


def video(url: str) -> bytes:
    """Generate a small video. Empty if that fails."""
    fields: dict[str, Any] = {**SMALL, "seed": 5}
    with TextToVideo(Connection(url)) as client, contextlib.suppress(ClientError):
        return client.generate_unary("a red ball", **fields).video or b""
    return b""


def until_again(lines: Iterator[str]) -> Iterator[str]:
    """Yield the launcher's output until its next server is ready, or until it ends."""
    for line in lines:
        yield line.strip()
        if line.startswith(AGAIN):
            return
