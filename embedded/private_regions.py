"""Private shared memory: only the server's user can open it.

With our umask Triton makes a region with mode 0600, and its library then sets 0644 with `fchmod`, regardless of the
umask. A later chmod does not help against a process that has opened the region by then. So a seccomp filter skips that
one call.
"""

import contextlib
import ctypes
import platform
import stat
import struct
from pathlib import Path

from embedded.process.libc import libc_function

PRIVATE_MODE = 0o600
_PUBLIC_MODE = 0o644
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW = 4  # keep speculative execution enabled
_ALLOW, _SKIP = 0x7FFF0000, 0x00050000  # allow the call; skip it and return 0
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # offsets in the kernel's `struct seccomp_data`

# Per machine: the kernel's AUDIT_ARCH constant, and the system call numbers of `fchmod` and `seccomp`.
_CALLS = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def keep_regions_private() -> bool:
    """Install a filter that skips `fchmod(file, 0644)`, in this process and its children. False if unsupported."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    architecture, fchmod, seccomp = calls
    instructions = _filter(architecture, fchmod)
    kept = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(kept))
    if libc_function("prctl")(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        return False
    numbers = map(ctypes.c_long, (seccomp, _SECCOMP_SET_MODE_FILTER, _SPEC_ALLOW))
    return libc_function("syscall")(*numbers, ctypes.byref(program)) == 0


def close_regions(folder: Path, prefix: str) -> None:
    """Make regions private that are not: too late for a process that has opened them already."""
    for region in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if stat.S_IMODE(region.stat().st_mode) != PRIVATE_MODE:
                region.chmod(PRIVATE_MODE)


def _filter(architecture: int, fchmod: int) -> bytes:
    """Make the filter's BPF program; a jump's operand is the number of instructions that it skips."""
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
