"""The one place that knows which TensorRT this machine has: mainline `tensorrt`, or `tensorrt_rtx`. Both have one API.

Neither is imported before it is asked for, so everything else works on machines that have none.
"""

import importlib
from typing import Any

MODULES = ("tensorrt", "tensorrt_rtx")  # in order of preference; plans of one do not load in the other
_INSTALL = {
    "tensorrt": "the Triton image holds it; elsewhere pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}


class TensorRtMissing(ImportError):
    """No TensorRT, or not the one asked for; the message says how to install it."""


def tensorrt_module(name: str | None = None) -> Any:
    """The TensorRT Python module of this name, or the first one that is installed. Raises TensorRtMissing."""
    if name is not None and name not in MODULES:
        raise TensorRtMissing(f"{name!r} is no TensorRT module, known: {', '.join(MODULES)}")
    reasons = []
    for candidate in MODULES if name is None else (name,):
        try:
            return importlib.import_module(candidate)
        except ImportError as error:  # also when the module is there and a library of it is not
            reasons.append(f"{candidate}: {error} ({_INSTALL[candidate]})")
    raise TensorRtMissing("no TensorRT can be imported: " + "; ".join(reasons))


def installed_tensorrt_modules() -> tuple[str, ...]:
    """Names of the modules that can be imported here."""
    importable = []
    for name in MODULES:
        try:
            tensorrt_module(name)
            importable.append(name)
        except TensorRtMissing:
            continue
    return tuple(importable)
