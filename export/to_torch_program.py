"""Export of torch modules to programs that torch alone can load, for the `torch` engine of wan_t2v/engines.

    python -m export torch-program --checkpoint training/wan-mini --repository model_repository
    python -m export torch-program --checkpoint FOLDER --graph text_encoder --text-encoder-precision bf16

Writes `model.pt2` and its manifest `program.json` beside each installed graph. The program is the export form that the
ONNX file is made from, traced by `torch.export` with the same dynamic axes. Serving therefore needs neither diffusers
nor transformers nor this package. Weights are inside the program, in the chosen precision (default: FP32).
"""

import hashlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from export.atomic import remove_leftovers, write_atomically
from export.checkpoint.folder import MAX_WEIGHTS_BYTES, Checkpoint, CheckpointError
from export.checkpoint.hashes import content_sha256
from export.disk_space import DiskNeed, check_disk_space
from export.graphs.precision import IN_ONNX_RUNTIME, PART_OF, Precisions, torch_dtype
from export.graphs.registry import GRAPHS, ExampleCall
from export.interruption import Interrupted, interruptible
from export.parity.graph_parity import TOLERANCES, ParityError, largest_error
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.engines.torch_program import NAMES_FILE, TorchEngine
from wan_t2v.installed_files import sha256_of_file

logger = logging.getLogger(__name__)
FILE = GRAPH_FILES["torch"]
VERSION = "1"
DISK_FACTOR = 1.1  # a program's weights in FP32 islands
EXAMPLE_BYTES = 100_000_000  # upper bound of a program's code and of its example's tensors, such as the VAE's caches


def write_programs(
    checkpoint: Checkpoint,
    repository: Path,
    *,
    graphs: Sequence[str] = tuple(GRAPHS),
    precisions: Precisions = IN_ONNX_RUNTIME,
) -> Path:
    """Write the programs of these graphs into `repository` and return it. Programs that are current are kept.

    What a killed process left of a program is removed first, so a repository has one writer at a time.
    Raises CheckpointError for weights that do not fit their config and for experts that are too large, DiskSpaceError
    before the first program, and ParityError for a program that differs from its module by more than its tolerance.
    """
    _check_experts(checkpoint, graphs)
    checkpoint.check()
    folders = {graph: repository / graph / VERSION for graph in graphs}
    stale = {}
    for graph, folder in folders.items():
        for name in (FILE.name, FILE.manifest):
            remove_leftovers(folder, name)
        made_from = _origin(checkpoint, graph, precisions.of(graph))
        if _is_current(folder, made_from):
            logger.info("%s is current", folder / FILE.name)
        else:
            stale[graph] = made_from
    needed = _program_bytes(checkpoint, stale, precisions)
    check_disk_space([DiskNeed(repository, needed, f"{len(stale)} torch programs")])
    for graph, made_from in stale.items():
        _write(graph, checkpoint, folders[graph], made_from)
    return repository


def _check_experts(checkpoint: Checkpoint, graphs: Iterable[str]) -> None:
    """Refuse experts that are too large to be traced with their weights in memory. Raises CheckpointError."""
    for graph in graphs:
        component = GRAPHS[graph].component
        stored = checkpoint.weights_bytes(component)
        if PART_OF[graph] == "experts" and stored > MAX_WEIGHTS_BYTES:
            raise CheckpointError(
                f"{checkpoint.folder / component} holds {stored / 1e9:.1f} GB of weights, all of which would be "
                f"in memory for a torch program; accepted for an expert: up to {MAX_WEIGHTS_BYTES / 1e9:.1f} GB. "
                "Name the other graphs: --graph text_encoder --graph vae_decoder_first --graph vae_decoder_next."
            )


def _program_bytes(checkpoint: Checkpoint, graphs: Iterable[str], precisions: Precisions) -> float:
    """Estimate the bytes of the programs of these graphs."""
    architecture = checkpoint.architecture
    parameters = {
        "experts": architecture.expert.parameters,
        "text_encoder": architecture.text_encoder.parameters,
        "vae": architecture.vae.decoder_parameters,
    }
    needed = 0.0
    for graph in graphs:
        needed += EXAMPLE_BYTES + DISK_FACTOR * parameters[PART_OF[graph]] * torch_dtype(precisions.of(graph)).itemsize
    return needed


def _write(graph: str, checkpoint: Checkpoint, folder: Path, made_from: Mapping[str, Any]) -> None:
    origin = GRAPHS[graph]
    folder.mkdir(parents=True, exist_ok=True)
    module = origin.module(checkpoint.module(origin.component, made_from["precision"])).eval()
    call = origin.example(checkpoint.facts, module)
    (folder / FILE.manifest).unlink(missing_ok=True)  # a program without a manifest is unverified
    path = write_program(module, call, folder / FILE.name)
    worst = _check(graph, module, call, path)
    sealed = {**made_from, FILE.hash_key: sha256_of_file(path)}
    with write_atomically(folder / FILE.manifest) as partial:
        partial.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s: relative error against its module %.1e", path, worst)


def _origin(checkpoint: Checkpoint, graph: str, precision: str) -> dict[str, Any]:
    """Return the manifest's part that is known before the export. While it is unchanged, the program is current."""
    here, digest = Path(__file__).parent, hashlib.sha256()
    for path in [*sorted((here / "graphs").glob("*.py")), Path(__file__)]:
        digest.update(path.read_bytes())
    merged = checkpoint.merged_loras
    loras = merged.loras.get(GRAPHS[graph].component, ()) if merged else ()
    return {
        "graph": graph,
        "precision": precision,
        "checkpoint_sha256": content_sha256(checkpoint.folder, GRAPHS[graph].component),
        "exporter_sha256": digest.hexdigest(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        **({"loras": [asdict(lora) for lora in loras]} if loras else {}),
    }


def _is_current(folder: Path, made_from: Mapping[str, Any]) -> bool:
    try:
        manifest = json.loads((folder / FILE.manifest).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    path = folder / FILE.name
    if not path.exists() or not made_from.items() <= manifest.items():
        return False
    return bool(manifest.get(FILE.hash_key) == sha256_of_file(path))


def write_program(module: nn.Module, call: ExampleCall, path: Path) -> Path:
    """Trace `module` with the dynamic axes of `call`, write the program to `path` atomically, and return `path`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes about torch's own internals
        program = torch.export.export(module, call.inputs, dynamic_shapes=_axes(call.dynamic_shapes), strict=False)
        names = json.dumps({"inputs": call.input_names, "outputs": call.output_names})
        with write_atomically(path) as partial, partial.open("wb") as file:  # torch rejects a path without .pt2
            _save(program, file, names)
    return path


def _save(program: torch.export.ExportedProgram, file: BinaryIO, names: str) -> None:
    """Write a program with the names of its tensors. Raises OSError or KeyboardInterrupt after torch's writer ended."""
    with interruptible() as interrupted:
        guarded: Any = _GuardedFile(file, interrupted)
        torch.export.save(program, guarded, extra_files={NAMES_FILE: names})
    if guarded.error is not None:
        raise guarded.error


class _GuardedFile(io.RawIOBase):
    """File for torch's writer, in which an exception would end the process.

    An OSError, such as for a full disk, is kept in `.error`. After it, or after Ctrl-C, nothing more is written.
    """

    def __init__(self, file: BinaryIO, interrupted: Interrupted) -> None:
        self._file, self._interrupted = file, interrupted
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # torch demands it, and seeks to the start at the end

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0 if self.error or self._interrupted.requested else self._file.seek(offset, whence)

    def write(self, data: Any) -> int:
        if self.error is None and not self._interrupted.requested:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def _axes(spec: Any) -> Any:
    """Convert dynamic axes to torch.export's: a named axis must stay dynamic, or the trace fails.

    Axes that depend on named ones are left to torch.
    """
    if isinstance(spec, dict):
        return {axis: torch.export.Dim.DYNAMIC if isinstance(wanted, str) else wanted for axis, wanted in spec.items()}
    return tuple(_axes(part) for part in spec)


def _check(graph: str, module: nn.Module, call: ExampleCall, path: Path) -> float:
    """Compare the written program with the module on random inputs, at the traced batch size and at 1.

    Returns the largest relative error. Raises ParityError if it exceeds the graph's tolerance.
    """
    engine, errors = TorchEngine(path), list[float]()
    for batch in (call.inputs[0].shape[0], 1):
        inputs = [_random_like(example[:batch]) for example in call.inputs]
        with torch.no_grad():
            expected = module(*inputs)
        actual = engine(dict(zip(call.input_names, inputs, strict=True)))
        pairs = zip(actual.items(), (expected,) if isinstance(expected, Tensor) else expected, strict=True)
        errors += (_relative(array, wanted) for (_, array), wanted in pairs)
    worst, tolerance = largest_error(errors), TOLERANCES[graph].relative
    if not worst <= tolerance:  # `not <=` is true for NaN
        raise ParityError(f"{graph}: the program differs from its module by {worst:.1e}, accepted {tolerance:.0e}")
    return worst


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Divide the largest difference by the largest expected value. Expected zeros accept only zeros."""
    peak = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / peak)


def _random_like(example: Tensor) -> Tensor:
    """Return ones for token ids and masks, which are valid for both, and random normal numbers for other inputs."""
    generator = torch.Generator().manual_seed(0)
    if not example.is_floating_point():
        return torch.ones_like(example)
    return torch.randn(example.shape, generator=generator).to(example.dtype)


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m export torch-program`, of which `python -m export.to_torch_program` is another name."""
    from export.__main__ import main as export_main

    return export_main(["torch-program", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
