"""Import of this machine's TensorRT: mainline `tensorrt` or `tensorrt_rtx`, which have the same API.

Both are imported on first use, so all other code works on machines without TensorRT.
"""

import importlib
from typing import Any

from wan_t2v.manifests import BUILD_PLANS

MAINLINE, RTX = "tensorrt", "tensorrt_rtx"  # plans of one do not load in the other
MODULES = (MAINLINE, RTX)  # in order of preference
_INSTALL = {
    MAINLINE: f"the serving image has it, and builds its plans: {BUILD_PLANS}; elsewhere pip install tensorrt",
    RTX: "pip install tensorrt-rtx-cu13",
}


class TensorRtMissing(ImportError):
    """No TensorRT, or not the one asked for; the message says how to install it."""


def plans_command(module: str) -> str:
    """Return the command that builds plans of this module, and where it is run."""
    return "make plans" if module == RTX else f"{BUILD_PLANS}, in the serving image"


def tensorrt_module(name: str | None = None) -> Any:
    """Import the TensorRT module of this name, or the first one that is installed. Raises TensorRtMissing."""
    if name is not None and name not in MODULES:
        raise TensorRtMissing(f"{name!r} is no TensorRT module, known: {', '.join(MODULES)}")
    reasons = []
    for candidate in MODULES if name is None else (name,):
        try:
            return importlib.import_module(candidate)
        except ImportError as error:  # also raised when a library of an installed module is missing
            reasons.append(f"{candidate}: {error} ({_INSTALL[candidate]})")
    raise TensorRtMissing("no TensorRT can be imported: " + "; ".join(reasons))
