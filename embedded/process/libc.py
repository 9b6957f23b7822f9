"""Functions of the C library for what runs between a fork and its exec.

They are looked up before the fork: in the child a lock of the loader that another thread held stays locked for ever.
"""

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def libc_function(name: str) -> Callable[..., int]:
    """Return a function of the C library; only the first call for a name asks the loader."""
    function: Callable[..., int] = ctypes.CDLL(None)[name]
    return function
