"""The GPU of this machine as `nvidia-smi` names it, so no CUDA context is created."""

import os
import shutil
import subprocess

from wan_t2v.manifests import RunningGpu

_FIELDS = "name,compute_cap,driver_version"


def running_gpu() -> RunningGpu | None:
    """The first GPU that this process may use, or None if there is no driver or no GPU."""
    tool = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if tool is None or visible in ("", "-1"):
        return None
    command = [tool, "-i", visible, f"--query-gpu={_FIELDS}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    fields = [field.strip() for field in answer.stdout.strip().split(",")]
    return RunningGpu(*fields) if answer.returncode == 0 and len(fields) == 3 else None
