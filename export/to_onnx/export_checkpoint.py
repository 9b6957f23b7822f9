"""Export of a checkpoint to a folder of checked graphs; `install.py` then copies them into a model repository.

Layout of the folder: `<graph>/manifest.json` and `<graph>/model.onnx` for each of the five graphs, and the files that
serving reads besides: `model_facts.json`, `serving_defaults.json`, `tokenizer.json`. The graphs of a large checkpoint
are written beside its shards instead (`export_in_place.py`), and their manifests have the paths.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from export.atomic import remove_leftovers
from export.bounded_pool import run_bounded
from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.disk_space import DiskNeed, check_disk_space
from export.graphs.precision import needs_ranges
from export.graphs.registry import GRAPHS
from export.quantisation.weights import eight_bit_bytes
from export.to_onnx.bf16_shards import bf16_shards_need, write_bf16_shards
from export.to_onnx.check import GraphError
from export.to_onnx.export_in_place import InPlaceGraph
from export.to_onnx.graph_export import ExportSettings, GraphExport
from export.to_onnx.latent_preview import write_preview
from export.to_onnx.model_files import seal_model_files, write_model_files
from export.unchanged_checkpoint import check_unchanged

logger = logging.getLogger(__name__)

BYTES_FOR_GRAPHS = 250_000_000  # upper bound of five graphs without weights
Written = tuple[str, float, InPlaceGraph | None]  # the graph's name, seconds, and the graph if it is in place
AS_SERVED_ON_A_CPU = ExportSettings()


def export_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    settings: ExportSettings = AS_SERVED_ON_A_CPU,
    *,
    on_written: Callable[[InPlaceGraph], None] = lambda _: None,
) -> Path:
    """Export all five graphs into `folder`, check them, and return `folder`. Graphs that are current are kept.

    `on_written` is called with each graph that was written beside the checkpoint's shards.
    Raises OccupiedFolderError or DiskSpaceError before anything is exported, CheckpointError for weights that do not
    fit their config or that change meanwhile, GraphError for a graph with wrong shapes, and ParityError for a graph
    that differs from its module.
    """
    if not settings.external_weights:
        checkpoint.check_fits_inside()
    checkpoint.check(external_weights=settings.external_weights)
    exports = [GraphExport(graph, checkpoint, folder, settings) for graph in GRAPHS]
    for export in exports:
        export.check_folder()
        export.check_ranges()
    folder.mkdir(parents=True, exist_ok=True)
    check_disk_space(_disk_needs(checkpoint, folder, settings))
    if settings.bf16_shards:
        write_bf16_shards(checkpoint.folder)
    write_model_files(checkpoint, folder)
    stale = [export for export in exports if not export.is_current]
    logger.info("%d of %d graphs are current, exporting %d", len(exports) - len(stale), len(exports), len(stale))
    if not settings.dummy:
        write_preview(checkpoint, folder, again=any(export.graph == "vae_decoder_first" for export in stale))
    in_place = _write_all(stale, on_written)
    for export in stale:
        export.seal(in_place.get(export.graph))
    check_unchanged(checkpoint)
    weights = {graph: checkpoint.hash_of(GRAPHS[graph].component).sha256 for graph in GRAPHS}
    seal_model_files(folder, {graph: {"checkpoint_sha256": sha256} for graph, sha256 in weights.items()})
    return folder


def graph_needs(checkpoint: Checkpoint, folder: Path, *, external_weights: bool | None = None) -> list[DiskNeed]:
    """Return the disk space of the graphs, with their weights unless `external_weights` (None: by checkpoint kind)."""
    if external_weights is None:
        external_weights = checkpoint.kind is CheckpointKind.LARGE
    if external_weights:
        return [DiskNeed(checkpoint.folder, BYTES_FOR_GRAPHS, "graphs beside the weights")]
    inside = 2 * sum(checkpoint.weights_bytes(graph.component) for graph in GRAPHS.values())  # FP16 may become FP32
    return [DiskNeed(folder, BYTES_FOR_GRAPHS + inside, "graphs with their weights")]


def _disk_needs(checkpoint: Checkpoint, folder: Path, settings: ExportSettings) -> list[DiskNeed]:
    needs = graph_needs(checkpoint, folder, external_weights=settings.external_weights)
    if settings.external_weights and not settings.dummy and needs_ranges(precision := settings.precisions.experts):
        written = sum(eight_bit_bytes(checkpoint.folder, component, precision) for component in EXPERT_COMPONENTS)
        needs.append(DiskNeed(checkpoint.folder, written, "weights in eight bits"))  # a dummy's zeros become holes
    if settings.bf16_shards:
        needs.append(bf16_shards_need(checkpoint.folder))
    return needs


def _write_all(exports: list[GraphExport], on_written: Callable[[InPlaceGraph], None]) -> dict[str, InPlaceGraph]:
    """Export the graphs in parallel processes, since tracing is single-threaded Python. Raises GraphError."""
    in_place: dict[str, InPlaceGraph] = {}
    if not exports:
        return in_place
    settings = exports[0].settings
    jobs = min(settings.jobs, len(exports))
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_use_one_thread,
        max_tasks_per_child=1 if settings.external_weights else None,  # a new process per graph, to measure its cost
    )
    try:
        for _, future in run_bounded(pool, _write, exports, jobs=jobs):
            graph, seconds, written = _result(future)
            logger.info("exported %s in %.0f s", graph, seconds)
            if written:
                in_place[graph] = written
                on_written(written)
    finally:
        pool.shutdown()
        for export in exports:  # a process that was killed while it cleaned up
            remove_leftovers(export.folder, export.graph)
    return in_place


def _result(future: Future[Written]) -> Written:
    """Return the result of a process. Raises GraphError for a process that was killed, and what the process raised."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise GraphError(
            "a process of the export was killed, most often by the system for lack of memory. "
            "Export fewer graphs at the same time: `python -m export onnx --jobs 1`."
        ) from None


def _use_one_thread() -> None:
    """Keep torch in this process to one thread.

    The threads of an operation wait for each other at its end. Where other processes have one of their cores, such as
    the graphs of other jobs, rounding a weight takes many times as long on several threads as on one.
    """
    torch.set_num_threads(1)


def _write(export: GraphExport) -> Written:
    started = time.monotonic()
    written = export.write()
    return export.graph, time.monotonic() - started, written
