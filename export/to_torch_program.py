"""Export of torch modules to programs that torch alone can load, for the `torch` engine of wan_t2v/engines.

    python -m export torch-program --checkpoint training/wan-mini --repository model_repository
    python -m export torch-program --checkpoint FOLDER --graph text_encoder --text-encoder-precision bf16

Writes `model.pt2` and its manifest `program.json` beside each installed graph. The program is the export form that the
ONNX file is made from, traced by `torch.export` with the same dynamic axes. Serving therefore needs neither diffusers
nor transformers nor this package. Weights are inside the program, in the chosen precision. Those of an
expert that is too large to be traced with them stay in the checkpoint's files, and links to these lie beside the
program. The engine converts such weights to the chosen precision as it loads them.
"""

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.atomic import remove_leftovers, write_atomically
from export.checkpoint.folder import MAX_WEIGHTS_BYTES, Checkpoint, CheckpointError
from export.disk_space import DiskNeed, check_disk_space
from export.graphs.precision import IN_ONNX_RUNTIME, PART_OF, Precisions, torch_dtype
from export.graphs.registry import GRAPHS, ExampleCall
from export.manifest import sources_sha256
from export.parity.graph_parity import TOLERANCES, ParityError, largest_error
from export.program_file import write_program
from export.unchanged_checkpoint import check_unchanged
from export.weightless_program import link_weights, remove_links, write_weightless_program
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.engines.torch_program import TorchEngine
from wan_t2v.installed_files import sha256_of_file

logger = logging.getLogger(__name__)
FILE = GRAPH_FILES["torch"]
VERSION = "1"
_SOURCES = ("to_torch_program.py", "program_file.py", "weightless_program.py")  # with those that determine its module
DISK_FACTOR = 1.1  # a program's weights in FP32 islands
EXAMPLE_BYTES = 100_000_000  # upper bound of a program's code and of its example's tensors, such as the VAE's caches


def write_programs(
    checkpoint: Checkpoint,
    repository: Path,
    *,
    graphs: Sequence[str] = tuple(GRAPHS),
    precisions: Precisions = IN_ONNX_RUNTIME,
    external_weights: bool | None = None,
) -> Path:
    """Write the programs of these graphs into `repository` and return it. Programs that are current are kept.

    `external_weights` says whether weights stay in the checkpoint's files; None: only those of experts that are too
    large. What a killed process left of a program is removed first, so a repository has one writer at a time.
    Programs that are to be replaced lose their manifests before the first is written, and the server refuses a program
    without one.
    Raises CheckpointError for weights that do not fit their config, or that are too large to be inside, DiskSpaceError
    before the first program, and ParityError for a program that differs from its module by more than its tolerance.
    """
    external = {graph: _is_external(checkpoint, graph, external_weights) for graph in graphs}
    checkpoint.check()
    folders = {graph: repository / graph / VERSION for graph in graphs}
    stale = {}
    for graph, folder in folders.items():
        for name in (FILE.name, FILE.manifest):
            remove_leftovers(folder, name)
        made_from = _origin(checkpoint, graph, precisions.of(graph), external=external[graph])
        if _is_current(folder, made_from) and link_weights(checkpoint, graph, folder / FILE.name):
            logger.info("%s is current", folder / FILE.name)
        else:
            stale[graph] = made_from
    needed = _program_bytes(checkpoint, stale, precisions, external)
    check_disk_space([DiskNeed(repository, needed, f"{len(stale)} torch programs")])
    for graph in stale:  # all before the first: of a run that breaks off no old program is to be served beside new ones
        (folders[graph] / FILE.manifest).unlink(missing_ok=True)
    for graph, made_from in stale.items():
        _write(graph, checkpoint, folders[graph], made_from, external=external[graph])
    return repository


def _is_external(checkpoint: Checkpoint, graph: str, wanted: bool | None) -> bool:
    """Whether the graph's weights stay in the checkpoint's files. Raises CheckpointError if they must and may not."""
    component = GRAPHS[graph].component
    stored = checkpoint.weights_bytes(component)
    must = PART_OF[graph] == "experts" and stored > MAX_WEIGHTS_BYTES
    if must and wanted is False:
        raise CheckpointError(
            f"{checkpoint.folder / component} holds {stored / 1e9:.1f} GB of weights, all of which would be in memory "
            f"for a torch program; accepted for an expert: up to {MAX_WEIGHTS_BYTES / 1e9:.1f} GB. Leave them in the "
            "checkpoint's files: `--weights external`."
        )
    return must if wanted is None else wanted


def _program_bytes(
    checkpoint: Checkpoint, graphs: Iterable[str], precisions: Precisions, external: Mapping[str, bool]
) -> float:
    """Estimate the bytes of the programs of these graphs."""
    architecture = checkpoint.architecture
    parameters = {
        "experts": architecture.expert.parameters,
        "text_encoder": architecture.text_encoder.parameters,
        "vae": architecture.vae.decoder_parameters,
    }
    needed = 0.0
    for graph in graphs:
        inside = DISK_FACTOR * parameters[PART_OF[graph]] * torch_dtype(precisions.of(graph)).itemsize
        needed += EXAMPLE_BYTES + (0.0 if external[graph] else inside)
    return needed


def _write(graph: str, checkpoint: Checkpoint, folder: Path, made_from: Mapping[str, Any], *, external: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path, origin, precision = folder / FILE.name, GRAPHS[graph], made_from["precision"]
    axes: dict[str, list[str]] = {}
    if external:
        write_weightless_program(graph, checkpoint, path, precision=precision)
        logger.info("wrote %s; its weights stay in %s", path, checkpoint.folder / origin.component)
    if not external or checkpoint.weights_bytes(origin.component) <= MAX_WEIGHTS_BYTES:
        module = origin.module(checkpoint.module(origin.component, precision)).eval()
        call = origin.example(checkpoint.facts, module)
        axes = {"dynamic_axes": call.named_axes()}
        if not external:
            remove_links(path)
            write_program(module, call, path)
        logger.info("%s: relative error against its module %.1e", path, _check(graph, module, call, path))
    sealed = {**made_from, **axes, FILE.hash_key: sha256_of_file(path)}
    check_unchanged(checkpoint, origin.component)
    with write_atomically(folder / FILE.manifest) as partial:
        partial.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")


def _origin(checkpoint: Checkpoint, graph: str, precision: str, *, external: bool) -> dict[str, Any]:
    """Return the manifest's part that is known before the export. While it is unchanged, the program is current."""
    merged = checkpoint.merged_loras
    loras = merged.loras.get(GRAPHS[graph].component, ()) if merged else ()
    weights = checkpoint.hash_of(GRAPHS[graph].component)
    return {
        "graph": graph,
        "precision": precision,
        "checkpoint_sha256": weights.sha256,
        **({"checkpoint_sampled": True} if weights.sampled else {}),
        "external_weights": external,
        "exporter_sha256": sources_sha256(_SOURCES),
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
