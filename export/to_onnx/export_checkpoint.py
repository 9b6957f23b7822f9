"""Checkpoint to a folder of checked graphs: every arrow of the engine's way but the last.

Layout of the folder: `<graph>/manifest.json` for the five graphs with `<graph>/model.onnx` beside it, and what serving
reads besides: `model_facts.json`, `serving_defaults.json`, `tokenizer.json`. The graphs of a large checkpoint stand
beside its shards instead (`export_in_place.py`), and the manifests say where.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import cast

from diffusers import WanTransformer3DModel
from torch import nn

from export.atomic import write_atomically, write_folder_atomically
from export.checkpoint.folder import (
    Checkpoint,
    check_small_enough,
    facts_from_checkpoint,
    is_small,
    module_from_checkpoint,
    weights_bytes,
)
from export.checkpoint.hashes import checkpoint_hash
from export.disk_space import DiskNeed, check_disk_space
from export.fp8.ranges import read_ranges, sha256_of
from export.fp8.weights import fp8_bytes
from export.graphs.fp8_layers import needed_ranges, put_inner_blocks_in_fp8
from export.graphs.precision import (
    FOR_LARGE_WEIGHTS,
    IN_ONNX_RUNTIME,
    PrecisionError,
    Precisions,
    blocks_in_fp8,
    io_precision,
    is_fp8,
)
from export.graphs.registry import GRAPHS
from export.manifest import ONNX
from export.parity.graph_parity import Comparison, parity_of, tolerance
from export.to_onnx.bf16_shards import bf16_folder, bf16_shards_need, write_bf16_shards
from export.to_onnx.check import check_shapes
from export.to_onnx.export_in_place import CHECKED_SIZES, InPlaceGraph, export_in_place, in_place_path
from export.to_onnx.exporter import onnx_from_module
from export.to_onnx.latent_preview import write_preview
from export.to_onnx.manifest import graph_manifest, is_current, origin
from export.to_onnx.model_files import seal_model_files, write_model_files
from wan_t2v.manifests import GRAPH_MANIFEST, GraphOrigin, to_json

logger = logging.getLogger(__name__)

_EXPERTS = ("high_noise_expert", "low_noise_expert")
BYTES_FOR_GRAPHS = 250_000_000  # five graphs without weights, with room


@dataclass(frozen=True)
class ExportSettings:
    """How to export.

    Attributes:
        precisions: of each part.
        external_weights: whether the weights stay in the checkpoint's files; the graphs then go into its folders.
        dummy: the checkpoint has shapes and no values, so its graphs are not compared with its modules.
        jobs: graphs traced at the same time.
        fp8_ranges: the file that calibration left; read for precisions in FP8 alone.
        bf16_shards: whether the experts' weights are first copied into shards in BF16, and read from there.

    Raises PrecisionError for BF16 shards under experts that are not between BF16.
    """

    precisions: Precisions = IN_ONNX_RUNTIME
    external_weights: bool = False
    dummy: bool = False
    jobs: int = 2
    fp8_ranges: Path = Path("build/fp8-ranges.json")
    bf16_shards: bool = False

    def __post_init__(self) -> None:
        if self.bf16_shards and not self.external_weights:
            raise PrecisionError("BF16 shards are for weights that stay in the checkpoint: `--weights external`")
        if self.bf16_shards and io_precision(self.precisions.experts) != "bf16":
            raise PrecisionError(
                f"BF16 shards: experts in {self.precisions.experts}, accepted: bf16, fp8, fp8-attention"
            )


AS_SERVED_ON_A_CPU = ExportSettings()


def default_precisions(checkpoint: Path) -> Precisions:
    """FP32, which ONNX Runtime runs, for small checkpoints; else what A14B is served in."""
    return IN_ONNX_RUNTIME if is_small(checkpoint) else FOR_LARGE_WEIGHTS


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    settings: ExportSettings = AS_SERVED_ON_A_CPU,
    *,
    written: Callable[[InPlaceGraph], None] = lambda _: None,
) -> Path:
    """Export and check all five graphs into `folder`; graphs that are already current are kept.

    `written` is told of each graph that was written beside the checkpoint's shards.
    Raises DiskSpaceError before any work; CheckpointError for a folder that is not Wan2.2-T2V or whose weights do not
    fit its config; GraphError for a graph that is not whole; ParityError for one that differs from its module.
    """
    opened = Checkpoint.open(checkpoint)
    if not settings.external_weights:
        check_small_enough(checkpoint)
    opened.check(external_weights=settings.external_weights)
    if is_fp8(settings.precisions.experts):
        for graph in _EXPERTS:
            _ranges(checkpoint, graph, settings, blocks=0)  # missing ranges are told before minutes of tracing
    folder.mkdir(parents=True, exist_ok=True)
    copies = [bf16_shards_need(checkpoint)] if settings.bf16_shards else []
    check_disk_space(
        [
            *_graph_needs(checkpoint, folder, external_weights=settings.external_weights),
            *_fp8_need(checkpoint, settings),
            *copies,
        ]
    )
    if settings.bf16_shards:
        write_bf16_shards(checkpoint)
    write_model_files(opened, folder)
    stale = [g for g in GRAPHS if not is_current(folder / g, _origin_of(checkpoint, g, settings))]
    logger.info("%d of %d graphs are current, exporting %d", len(GRAPHS) - len(stale), len(GRAPHS), len(stale))
    if not settings.dummy:
        write_preview(checkpoint, folder, again="vae_decoder_first" in stale)
    in_place = _export_all(checkpoint, folder, stale, settings, written)
    for graph in (graph for graph in GRAPHS if graph in stale):
        _check_and_seal(checkpoint, folder, graph, settings, in_place.get(graph))
    weights = {graph: checkpoint_hash(checkpoint, GRAPHS[graph].component).sha256 for graph in GRAPHS}
    seal_model_files(folder, {graph: {"checkpoint_sha256": sha256} for graph, sha256 in weights.items()})
    return folder


def graph_needs(checkpoint: Path, folder: Path) -> list[DiskNeed]:
    """What the graphs of a checkpoint take, where weights as large as its own stay beside them or go inside."""
    return _graph_needs(checkpoint, folder, external_weights=not is_small(checkpoint))


def _graph_needs(checkpoint: Path, folder: Path, *, external_weights: bool) -> list[DiskNeed]:
    if external_weights:
        return [DiskNeed(checkpoint, BYTES_FOR_GRAPHS, "graphs beside the weights")]
    inside = 2 * sum(weights_bytes(checkpoint, graph.component) for graph in GRAPHS.values())  # FP16 may become FP32
    return [DiskNeed(folder, BYTES_FOR_GRAPHS + inside, "graphs with their weights")]


def _fp8_need(checkpoint: Path, settings: ExportSettings) -> list[DiskNeed]:
    """What the experts' weights in FP8 take beside the checkpoint's; a dummy's zeros are written as holes."""
    if not settings.external_weights or settings.dummy or not is_fp8(settings.precisions.experts):
        return []
    written = sum(fp8_bytes(checkpoint, GRAPHS[graph].component) for graph in _EXPERTS)
    return [DiskNeed(checkpoint, written, "weights in FP8")]


def _export_all(
    checkpoint: Path, folder: Path, graphs: list[str], settings: ExportSettings, written: Callable[[InPlaceGraph], None]
) -> dict[str, InPlaceGraph]:
    """Tracing is single-threaded Python, so graphs go to processes of their own."""
    in_place: dict[str, InPlaceGraph] = {}
    if not graphs:
        return in_place
    pool = ProcessPoolExecutor(
        min(settings.jobs, len(graphs)),
        mp_context=get_context("spawn"),
        max_tasks_per_child=1
        if settings.external_weights
        else None,  # what such a graph costs is told, so it is measured alone
    )
    tasks = [pool.submit(_export, checkpoint, folder, graph, settings) for graph in graphs]
    try:
        for future in as_completed(tasks):
            graph, seconds, found = future.result()
            logger.info("exported %s in %.0f s", graph, seconds)
            if found:
                in_place[graph] = found
                written(found)
    finally:
        pool.shutdown(cancel_futures=True)  # after a failure the graphs that were not begun are not begun
    return in_place


def _export(
    checkpoint: Path, folder: Path, graph: str, settings: ExportSettings
) -> tuple[str, float, InPlaceGraph | None]:
    started = time.monotonic()
    precision = settings.precisions.of(graph)
    with write_folder_atomically(folder / graph) as partial:  # replaces a stale graph together with its manifest
        if settings.external_weights:
            prepared = functools.partial(_in_precision, checkpoint=checkpoint, graph=graph, settings=settings)
            copies = bf16_folder(checkpoint) if settings.bf16_shards and graph in _EXPERTS else None
            found = export_in_place(checkpoint, graph, precision, prepared=prepared, weights_folder=copies)
            return graph, time.monotonic() - started, found
        module = module_from_checkpoint(checkpoint, GRAPHS[graph].component, precision)
        module = _in_precision(module, checkpoint=checkpoint, graph=graph, settings=settings)
        facts = facts_from_checkpoint(checkpoint)
        onnx_from_module(module, graph, facts, partial / ONNX)
        check_shapes(partial / ONNX, graph, facts, CHECKED_SIZES)
    return graph, time.monotonic() - started, None


def _in_precision(module: nn.Module, *, checkpoint: Path, graph: str, settings: ExportSettings) -> nn.Module:
    """Put an expert in FP8 where that was chosen."""
    precision = settings.precisions.of(graph)
    if not is_fp8(precision):
        return module
    expert = cast(WanTransformer3DModel, module)
    put_inner_blocks_in_fp8(expert, precision, _ranges(checkpoint, graph, settings, blocks=len(expert.blocks)))
    return module


def _ranges(checkpoint: Path, graph: str, settings: ExportSettings, *, blocks: int) -> Mapping[str, float]:
    names = needed_ranges(blocks_in_fp8(blocks))
    if settings.dummy:
        return dict.fromkeys(names, 1.0)
    component = GRAPHS[graph].component
    wanted = checkpoint_hash(checkpoint, component).sha256
    return read_ranges(settings.fp8_ranges, component, names=names, checkpoint_hash=wanted)


def _check_and_seal(
    checkpoint: Path, folder: Path, graph: str, settings: ExportSettings, found: InPlaceGraph | None
) -> None:
    """Parity first, manifest last: a graph without a manifest was never shown to be right."""
    parity, reason = _compare(checkpoint, folder, graph, settings)
    path = found.path if found else folder / graph / ONNX
    sealed = graph_manifest(_origin_of(checkpoint, graph, settings), path, parity, not_compared=reason)
    if found:
        sealed = replace(
            sealed,
            onnx=str(found.path.resolve()),
            weights=asdict(found.external_data),
            structure=asdict(found.structure),
        )
    with write_atomically(folder / graph / GRAPH_MANIFEST) as partial:
        partial.write_text(to_json(sealed), encoding="utf-8")


def _compare(
    checkpoint: Path, folder: Path, graph: str, settings: ExportSettings
) -> tuple[list[Comparison], str | None]:
    """Parity figures, or none and the reason."""
    precision = settings.precisions.of(graph)
    if tolerance(graph, precision) is None:
        return [], f"ONNX Runtime cannot run {precision} on a CPU; structure, types and shapes were checked"
    if settings.dummy:
        return [], "the checkpoint is a dummy without values; structure, types and shapes were checked"
    if not is_small(checkpoint):
        return [], "the module is too large to load beside the graph; structure, types and shapes were checked"
    files = {g: _in_place_path(checkpoint, g, settings) for g in GRAPHS} if settings.external_weights else None
    parity = parity_of(graph, checkpoint, folder, precision=precision, files=files)
    logger.info("%s agrees with its module: relative error %.1e", graph, max(c.relative for c in parity))
    return parity, None


def _in_place_path(checkpoint: Path, graph: str, settings: ExportSettings) -> Path:
    copies = settings.bf16_shards and graph in _EXPERTS
    return in_place_path(bf16_folder(checkpoint) if copies else checkpoint, graph, settings.precisions.of(graph))


def _origin_of(checkpoint: Path, graph: str, settings: ExportSettings) -> GraphOrigin:
    precision = settings.precisions.of(graph)
    return origin(
        graph,
        checkpoint_hash(checkpoint, GRAPHS[graph].component),
        precision,
        fp8_ranges_sha256=sha256_of(settings.fp8_ranges) if is_fp8(precision) else None,
        bf16_shards=settings.bf16_shards and graph in _EXPERTS,
    )
