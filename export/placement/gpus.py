"""Usable memory of a GPU that is named by its size."""

import re
from dataclasses import dataclass

from export.placement.gpu_memory import GIB, MIB, SettingsError

# total memory as nvidia-smi reports it: L40S, A40 and A6000 with ECC; H100 (A100 has a little more); H200
REPORTED_MIB = {48: 46068, 80: 81559, 141: 143771}
DRIVER_BYTES = 6 * GIB // 10  # reported, but not to be had. Estimate.
# Never planned for. A program that asks a full GPU for memory does not fail cleanly: Triton's Python backend reads past
# the end of a list (cuda_pool.py), and TensorRT and cuDNN need room of their own when they load kernels.
KEPT_FREE_BYTES = 4 * GIB


@dataclass(frozen=True)
class Gpu:
    """A GPU: what it is called by size, and the bytes that may be planned for."""

    name: str
    usable: int

    @classmethod
    def parse(cls, text: str) -> "Gpu":
        """`80`: a size in GB as on the box; `81559MiB`: exactly what nvidia-smi reports. Raises SettingsError.

        A size that is not in the table counts as decimal GB, less than any such GPU has.
        """
        match = re.fullmatch(r"([0-9]{1,6})(GB|MiB)?", text)
        if match is None or int(match[1]) == 0:
            raise SettingsError(
                f"GPU {text!r}, accepted: gigabytes as on the box (80), or nvidia-smi's total (81559MiB)"
            )
        number = int(match[1])
        if match[2] == "MiB":
            return cls(text, max(0, number * MIB - DRIVER_BYTES - KEPT_FREE_BYTES))
        total = REPORTED_MIB[number] * MIB if number in REPORTED_MIB else number * 10**9
        return cls(f"{number} GB", max(0, total - DRIVER_BYTES - KEPT_FREE_BYTES))
