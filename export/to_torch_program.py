"""Export of torch modules to programs that torch alone can load, for the `torch` engine of wan_t2v/engines.

    python -m export.to_torch_program --checkpoint training/wan-mini --repository model_repository
    python -m export.to_torch_program --checkpoint FOLDER --graph text_encoder --text-encoder-precision bf16

Writes `model.pt2` and its manifest `program.json` beside each installed graph. The program is the export form that the
ONNX file is made from, traced by `torch.export` with the same dynamic axes. Serving therefore needs neither diffusers
nor transformers nor this package. Weights are inside the program, in the chosen precision (default: FP32).
"""

import argparse
import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.atomic import write_atomically
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.checkpoint.hashes import content_sha256
from export.file_hash import sha256
from export.graphs.precision import IN_ONNX_RUNTIME, SUPPORTED, Precisions, needs_ranges
from export.graphs.registry import GRAPHS, ExampleCall
from export.parity.graph_parity import TOLERANCES, ParityError, largest_error
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.engines.torch_program import NAMES_FILE, TorchEngine

logger = logging.getLogger(__name__)
FILE = GRAPH_FILES["torch"]
_PRECISIONS = {"--precision": "experts", "--text-encoder-precision": "text_encoder", "--vae-precision": "vae"}


def write_programs(
    checkpoint: Checkpoint,
    repository: Path,
    *,
    graphs: Sequence[str] = tuple(GRAPHS),
    precisions: Precisions = IN_ONNX_RUNTIME,
    version_folder: str = "1",
) -> Path:
    """Write the programs of these graphs into `repository` and return it. Programs that are current are kept.

    Raises CheckpointError for weights that do not fit their config, ParityError for a program that differs from its
    module by more than its tolerance.
    """
    checkpoint.check()
    for graph in graphs:
        folder, made_from = repository / graph / version_folder, _origin(checkpoint, graph, precisions.of(graph))
        if _is_current(folder, made_from):
            logger.info("%s is current", folder / FILE.name)
        else:
            _write(graph, checkpoint, folder, made_from)
    return repository


def _write(graph: str, checkpoint: Checkpoint, folder: Path, made_from: Mapping[str, Any]) -> None:
    origin = GRAPHS[graph]
    folder.mkdir(parents=True, exist_ok=True)
    module = origin.module(checkpoint.module(origin.component, made_from["precision"])).eval()
    call = origin.example(checkpoint.facts, module)
    (folder / FILE.manifest).unlink(missing_ok=True)  # a program without a manifest is unverified
    path = write_program(module, call, folder / FILE.name)
    worst = _check(graph, module, call, path)
    sealed = {**made_from, FILE.hash_key: sha256(path)}
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
    return bool(manifest.get(FILE.hash_key) == sha256(path))


def write_program(module: nn.Module, call: ExampleCall, path: Path) -> Path:
    """Trace `module` with the dynamic axes of `call`, write the program to `path` atomically, and return `path`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes about torch's own internals
        program = torch.export.export(module, call.inputs, dynamic_shapes=_axes(call.dynamic_shapes), strict=False)
        names = json.dumps({"inputs": call.input_names, "outputs": call.output_names})
        with write_atomically(path) as partial, partial.open("wb") as file:  # torch rejects a path without .pt2
            torch.export.save(program, file, extra_files={NAMES_FILE: names})
    return path


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


def main() -> int:
    """Run the command. An expected failure prints one line and returns exit code 1."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m export.to_torch_program", description=description)
    parser.add_argument("--checkpoint", type=Path, default=Path("training/wan-mini"), help="diffusers folder")
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="model repository to install into"
    )
    parser.add_argument(
        "--graph", action="append", choices=tuple(GRAPHS), help="graph to trace; again for more (default: all five)"
    )
    for option, part in _PRECISIONS.items():
        supported = [name for name in SUPPORTED[part] if not needs_ranges(name)]
        parser.add_argument(
            option,
            choices=supported,
            default="fp32",
            help=f"precision of the {part.replace('_', ' ')} (default: %(default)s)",
        )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    try:
        precisions = Precisions(options.precision, options.text_encoder_precision, options.vae_precision)
        graphs = options.graph or tuple(GRAPHS)
        write_programs(Checkpoint.open(options.checkpoint), options.repository, graphs=graphs, precisions=precisions)
    except (CheckpointError, ParityError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
