"""Model repository for fault injection: graphs that fail on demand, a short queue, a small disk."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.repository_copy import copy_repository

FAULTY_GRAPH = Path(__file__).with_name("faulty_graph.py")  # importable in Triton's processes only
FAULTY = ("high_noise_expert", "low_noise_expert", "vae_decoder_next")
LOOPS = ("denoiser", "text_to_video_stream")
DECODERS = ("vae_decoder", "text_to_video_stream")  # one latent frame per call, so that a short clip has a second call
TEXT_ENCODER = "text_encoder"
TEXT_CACHE_BYTES = 2**20  # Triton's response cache: about 20 prompts of wan-mini, so that prompts are soon evicted
PLACES = 4  # one runs, three wait
FILLED_BYTES = 2**16  # per write


@dataclass(frozen=True)
class HarmedRepository:
    """Paths of the repository, of the fault files of graphs and text encoder, and of the checkpoints."""

    path: Path
    fault_file: Path
    prompt_fault_file: Path
    checkpoints: Path

    @contextlib.contextmanager
    def failing(self, kind: str, *, latents: tuple[int, int], below: float) -> Iterator[None]:
        """Make the graphs fail at clips of this size inside the context (`tests/stress/faults/faulty_graph.py`)."""
        partial = self.fault_file.with_suffix(".partial")
        partial.write_text(json.dumps({"kind": kind, "latents": latents, "below": below}), encoding="utf-8")
        partial.replace(self.fault_file)
        try:
            yield
        finally:
            self.fault_file.unlink()

    @contextlib.contextmanager
    def failing_prompt(self) -> Iterator[Callable[[], bool]]:
        """Make the next call of the text encoder fail. Yields a function that returns whether it did."""
        self.prompt_fault_file.touch()
        try:
            yield lambda: not self.prompt_fault_file.exists()
        finally:
            self.prompt_fault_file.unlink(missing_ok=True)


def harmed_repository(repository: Path, folder: Path, *, checkpoints: Path) -> HarmedRepository:
    """Make a copy under `folder` that admits four requests and writes a checkpoint after every step."""
    files = folder / "fault.json", folder / "prompt_fault"
    harmed = HarmedRepository(copy_repository(repository, folder), *files, checkpoints)
    for graph in (*FAULTY, TEXT_ENCODER):
        shutil.copy(FAULTY_GRAPH, harmed.path / graph / "1/model.py")
        file = harmed.prompt_fault_file if graph == TEXT_ENCODER else harmed.fault_file
        _configure(harmed.path / graph, {"fault_file": str(file)})
    for decoder in DECODERS:
        _configure(harmed.path / decoder, {"latent_frames_per_call": "1"})
    limits = {"max_in_flight": "1", "max_queued": str(PLACES - 1)}
    for loop in LOOPS:
        _configure(harmed.path / loop, {**limits, "checkpoint_folder": str(checkpoints), "checkpoint_every": "1"})
    return harmed


def _configure(model: Path, parameters: dict[str, str]) -> None:
    """Set parameters of a model, replacing existing ones."""
    path = model / "configs/cpu.pbtxt"
    text = path.read_text(encoding="utf-8")
    for name, value in parameters.items():
        text = re.sub(rf'^parameters {{ key: "{name}".*\n', "", text, flags=re.MULTILINE)
        text += f'parameters {{ key: "{name}", value {{ string_value: "{value}" }} }}\n'
    path.write_text(text, encoding="utf-8")


class MountRefused(Exception):
    """A refused mount of a file system."""


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size at `folder`. Raises MountRefused; usually only root may mount."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountRefused(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the disk of `folder` completely inside the context."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:  # the last successful write is short, and the next one fails
                file.write(bytes(FILLED_BYTES))
        yield
    finally:
        filler.unlink()
