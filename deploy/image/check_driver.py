"""Check whether the node's NVIDIA driver supports this image's CUDA. A pod's first init container runs it.

python3 -m deploy.image.check_driver

Standard library only. It queries the `libcuda` that the container's programs load. So NVIDIA's forward compatibility
package counts if the node's container toolkit puts it first; the base image's entrypoint, which would, is not run here.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

# CUDA of Triton 26.07 (13.3.1 by its release notes), used if the base image does not set CUDA_VERSION.
CUDA_OF_IMAGE = (13, 3)
# The oldest driver that runs programs of a CUDA major release. Source: NVIDIA, CUDA Compatibility, "Minor Version
# Compatibility", table of driver version ranges: 13.x needs 580, 12.x needs 525, 11.x needs 450 or newer.
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
SUCCESS = 0
_REMEDY = (
    "Update the node's driver, or let this pod run on other nodes (gpu.products, nodeSelector); for data-center GPUs "
    "NVIDIA's container toolkit 1.17.5 or newer uses the image's cuda-compat package, where that supports the driver."
)


class DriverUnfitError(Exception):
    """A driver that is missing or too old. The message has the driver found, the driver needed and the remedy."""


@dataclass(frozen=True)
class Driver:
    """The newest CUDA that the driver supports, and the driver's version if nvidia-smi reports it."""

    cuda: tuple[int, int]
    version: str | None

    def __str__(self) -> str:
        version = f"{self.version} " if self.version else ""
        return f"driver {version}for CUDA {self.cuda[0]}.{self.cuda[1]}"


def cuda_of_image() -> tuple[int, int]:
    """Return the image's CUDA version (major, minor), from the base image's CUDA_VERSION."""
    parts = os.environ.get("CUDA_VERSION", "").split(".")
    if len(parts) >= 2 and all(part.isdecimal() for part in parts[:2]):
        return int(parts[0]), int(parts[1])
    return CUDA_OF_IMAGE


def driver_here(library: str = "libcuda.so.1") -> Driver:
    """Query the driver of this machine. Raises DriverUnfitError."""
    number = ctypes.c_int()
    try:
        answer = int(ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number)))
    except (OSError, AttributeError) as error:
        raise DriverUnfitError(
            f"no NVIDIA driver is here ({error}); {needed(cuda_of_image())}. The node needs it and NVIDIA's container "
            "runtime, and the pod must ask for the GPU (gpu.resourceName, gpu.runtimeClassName)."
        ) from None
    if answer != SUCCESS:
        raise DriverUnfitError(f"{library} does not tell its version: CUDA error {answer}. {_REMEDY}")
    return Driver((number.value // 1000, number.value % 1000 // 10), _version())


def _version() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.split() if answer.returncode == 0 else []
    return lines[0] if lines else None


def needed(cuda: tuple[int, int]) -> str:
    """Describe the driver that the image needs."""
    oldest = OLDEST_DRIVERS.get(cuda[0])
    driver = f"driver {oldest} or newer" if oldest else f"a driver for CUDA {cuda[0]}"
    return f"the image has CUDA {cuda[0]}.{cuda[1]}, which needs {driver}"


def check(driver: Driver, cuda: tuple[int, int]) -> str:
    """Describe the driver in one line. Raises DriverUnfitError for a driver of an older CUDA major release."""
    if driver.cuda[0] < cuda[0]:
        raise DriverUnfitError(f"{needed(cuda)}; here is {driver}. {_REMEDY}")
    if driver.cuda < cuda:
        note = "it runs by NVIDIA's minor version compatibility, without what is new since"
        return f"{needed(cuda)}; here is {driver}: {note}"
    return f"{needed(cuda)}; here is {driver}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command. An error prints one line and returns exit code 1."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    try:
        print(check(driver_here(), cuda_of_image()))
    except DriverUnfitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
