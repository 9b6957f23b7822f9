"""Usable memory of a GPU that is given by its memory size."""

import re
from dataclasses import dataclass

from export.placement.gpu_memory import GIB, MIB, SettingsError

# Total memory as nvidia-smi reports it: L40S, A40 and A6000 with ECC; H100 (A100 has a little more); H200.
REPORTED_MIB = {48: 46068, 80: 81559, 141: 143771}
MOST_GB = 1000  # of one GPU; a larger number is nvidia-smi's MiB without the unit
DRIVER_BYTES = 6 * GIB // 10  # part of the total that programs cannot allocate. Estimate.
# Reserve on each GPU. Programs do not fail cleanly on a full GPU: Triton's Python backend reads past the end of a list
# (cuda_pool.py), and TensorRT and cuDNN allocate memory when they load kernels.
KEPT_FREE_BYTES = 4 * GIB


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name by memory size, and the bytes that placement may use."""

    name: str
    usable: int

    @classmethod
    def parse(cls, text: str) -> "Gpu":
        """Parse `80`, the advertised GB, or `81559 MiB`, the total that nvidia-smi reports. Raises SettingsError.

        A size that is not in REPORTED_MIB counts as decimal GB, which is less than such a GPU reports.
        """
        match = re.fullmatch(r"([0-9]{1,6}) ?(GB|MiB)?", text)
        if match is None or int(match[1]) == 0:
            raise SettingsError(
                f"GPU {text!r}, accepted: gigabytes as on the box (80), or nvidia-smi's total (81559MiB)"
            )
        number = int(match[1])
        if match[2] == "MiB":
            return cls(f"{number}MiB", max(0, number * MIB - DRIVER_BYTES - KEPT_FREE_BYTES))
        if number > MOST_GB:
            raise SettingsError(f"GPU {text!r} is {number:,} GB; did you mean {number}MiB, as nvidia-smi reports it?")
        total = REPORTED_MIB[number] * MIB if number in REPORTED_MIB else number * 10**9
        return cls(f"{number} GB", max(0, total - DRIVER_BYTES - KEPT_FREE_BYTES))
