"""What a server that was killed leaves on the machine, and its removal."""

import contextlib
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's folder, nothing is created there
SHM_PREFIX = "wan_t2v_"
FOLDER_PREFIX = "wan-t2v-"


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory that a server with this prefix left."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove what supervisors that no longer live (killed, or the machine's power lost) left behind."""
    for region in SHARED_MEMORY.glob(f"{SHM_PREFIX}*"):
        if _is_gone(region.name.removeprefix(SHM_PREFIX).partition("_")[0]):
            with contextlib.suppress(PermissionError):  # another user's
                region.unlink(missing_ok=True)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if _is_gone(folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def _is_gone(pid: str) -> bool:
    return pid.isdecimal() and not Path(f"/proc/{pid}").exists()
