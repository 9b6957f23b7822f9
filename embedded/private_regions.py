"""Private shared memory: only the server's user can open it.

Triton makes a region with mode 0600, by the umask, and then sets 0644 with `fchmod`: its library does so that no umask
is in the way. Whoever opened it in that moment would keep it, so the kernel leaves that one call out.
"""

import contextlib
import ctypes
import platform
import stat
import struct
from pathlib import Path

PRIVATE_MODE = 0o600
_PUBLIC_MODE = 0o644
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW = 4  # keep the processor's guesses as fast as they are
_ALLOW, _SKIP = 0x7FFF0000, 0x00050000  # let a call pass; answer it with 0 and do nothing
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # where a call's description has them

# By machine: the kernel's name of the architecture, and the numbers of `fchmod` and `seccomp` there.
_CALLS = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def keep_regions_private() -> bool:
    """Take `fchmod(file, 0644)` for done in this process and all that come of it. False where the kernel cannot."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    architecture, fchmod, seccomp = calls
    instructions = _filter(architecture, fchmod)
    kept = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        return False
    numbers = map(ctypes.c_long, (seccomp, _SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW))
    return int(libc.syscall(*numbers, ctypes.byref(program))) == 0


def close_regions(folder: Path, prefix: str) -> None:
    """Take regions away from other users where the kernel let the call pass; late for one who has opened them."""
    for region in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if stat.S_IMODE(region.stat().st_mode) != PRIVATE_MODE:
                region.chmod(PRIVATE_MODE)


def _filter(architecture: int, fchmod: int) -> bytes:
    """A program of the kernel's packet filter; a jump counts the instructions that it passes over."""
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 3, fchmod),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_IF_EQUAL, 0, 1, _PUBLIC_MODE),
        (_ANSWER, 0, 0, _SKIP),
        (_ANSWER, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
