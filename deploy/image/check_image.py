"""Check the image against its lock files. The image's build runs it and fails if it fails.

python3 -m deploy.image.check_image --locks FOLDER --repository FOLDER
"""

import argparse
import ctypes
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYTHON = (3, 12)  # Triton 26.07's Python backend is built for it
IMPORTED = (
    "av",
    "diffusers",
    "onnxruntime",
    "tensorrt",
    "torch",
    "transformers",
    "tritonclient.grpc",
    "wan_t2v.serving.models.text_to_video_stream",
    "wan_t2v.serving.models.vae_decoder",
)
WEIGHTS = (".onnx", ".data", ".plan", ".pt2", ".safetensors")


def locked(lock: Path) -> dict[str, str]:
    """Return the version by name of every package in a lock file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(pins)


def wrong_packages(pins: dict[str, str]) -> Iterator[str]:
    """Yield packages that are missing or have another version than in their lock file."""
    for name, wanted in pins.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield f"{name} is missing, the lock names {wanted}"
            continue
        if installed != wanted:
            yield f"{name} is {installed}, the lock names {wanted}"


def failing_imports(modules: tuple[str, ...] = IMPORTED) -> Iterator[str]:
    """Yield modules that cannot be imported, with the reason."""
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            yield f"import {module}: {error}"


def wrong_tensorrt(pinned: str, library: str | None = None) -> Iterator[str]:
    """Yield a mismatch between the image's TensorRT library and the pinned Python bindings.

    `getInferLibVersion` gives major x 10000 + minor x 100 + patch since TensorRT 10.
    """
    major, minor, patch = (int(part) for part in pinned.split(".")[:3])
    name = library or f"libnvinfer.so.{major}"
    remedy = "take the bindings of the image's own version into deploy/tensorrt.lock"
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())
    except OSError as error:
        yield f"{name} cannot be loaded: {error}; {remedy}"
        return
    found = (number // 10000, number // 100 % 100, number % 100)
    if found != (major, minor, patch):
        yield f"TensorRT of the image is {'.'.join(map(str, found))}, the lock names {pinned}; {remedy}"


def missing_parser(module: str = "tensorrt") -> Iterator[str]:
    """Yield why TensorRT's ONNX parser cannot be used. The plans Job needs it, and it has a library of its own."""
    try:
        tensorrt = importlib.import_module(module)
    except (ImportError, OSError):
        return  # `failing_imports` reports it
    if not callable(getattr(tensorrt, "OnnxParser", None)):
        yield f"{module} has no OnnxParser: libnvonnxparser of the image cannot be loaded"


def unwanted_files(repository: Path) -> Iterator[str]:
    """Yield weight files in the image's model repository. Weights belong on a volume."""
    for path in sorted(repository.rglob("*")):
        if path.suffix in WEIGHTS:
            yield f"{path} holds weights"


def main(arguments: list[str] | None = None) -> int:
    """Run the command: print all problems. Returns exit code 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--locks", type=Path, required=True, help="folder of requirements.lock and tensorrt.lock")
    parser.add_argument("--repository", type=Path, required=True, help="the image's model repository")
    options = parser.parse_args(arguments)
    tensorrt = locked(options.locks / "tensorrt.lock")
    problems = [
        *([] if sys.version_info[:2] == PYTHON else [f"Python is {sys.version.split()[0]}, wanted is 3.12"]),
        *wrong_packages({**locked(options.locks / "requirements.lock"), **tensorrt}),
        *wrong_tensorrt(tensorrt["tensorrt-cu13-bindings"]),
        *failing_imports(),
        *missing_parser(),
        *unwanted_files(options.repository),
    ]
    print("\n".join(f"error: {problem}" for problem in problems) or "the image is what its locks say", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
