"""A GPU fault after which no CUDA call of the server succeeds, and the mark by which the probes learn of it."""

from wan_t2v.operate.run_directory import RunDirectory

FILE = "gpu_fault.json"  # a new server removes it, like every JSON file of the last one
# Texts of cudaGetErrorString: hardware errors, and those of which NVIDIA's CUDA Runtime API (cudaError_t) says that
# "the process must be terminated and relaunched". Out of memory is not among them, since it passes.
TEXTS = (
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "context is destroyed",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "Invalid access of peer GPU memory over nvlink or a hardware error",  # newer than 12.6
)


def is_gpu_fault(message: str) -> bool:
    """Whether an error message of CUDA, TensorRT or torch says that the process can use its GPU no more."""
    return any(text in message for text in TEXTS)


def mark_gpu_fault(run: RunDirectory, message: str) -> None:
    """Let the probes fail until the server is started again."""
    run.write_json(FILE, {"message": message})


def marked_gpu_fault(run: RunDirectory) -> str | None:
    """Return the message of the GPU fault that this server has met; None if there was none."""
    mark = run.read_json(FILE)
    return None if mark is None else str(mark.get("message"))
