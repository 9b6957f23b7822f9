"""Checkpoint to a folder of checked graphs: every arrow of the engine's way but the last.

Layout of the folder: `<graph>/model.onnx` and `<graph>/manifest.json` for the five graphs, and what serving reads
besides: `model_facts.json`, `serving_defaults.json`, `tokenizer.json`.
"""

import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from export.atomic import written_file, written_folder
from export.checkpoint import (
    check_checkpoint,
    check_small_enough,
    component_sha256,
    facts_from_checkpoint,
    module_from_checkpoint,
    save_tokenizer,
)
from export.graph_table import GRAPHS
from export.manifest import is_current, manifest, origin
from export.parity import parity_of
from export.serving_defaults import serving_defaults
from export.to_onnx import onnx_from_module
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE

logger = logging.getLogger(__name__)


def exported_checkpoint(checkpoint: Path, folder: Path, *, jobs: int = 2) -> Path:
    """Export and check all five graphs into `folder`; graphs that are already current are kept.

    Raises CheckpointError for a folder that is not Wan2.2-T2V, ParityError for a graph that differs from its module.
    """
    check_checkpoint(checkpoint)
    check_small_enough(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    with written_file(folder / FACTS_FILE) as partial:
        partial.write_text(facts_from_checkpoint(checkpoint).to_json(), encoding="utf-8")
    with written_file(folder / DEFAULTS_FILE) as partial:
        partial.write_text(json.dumps(serving_defaults(checkpoint), indent=2) + "\n", encoding="utf-8")
    with written_file(folder / TOKENIZER_FILE) as partial:
        save_tokenizer(checkpoint, partial)
    stale = [graph for graph in GRAPHS if not is_current(folder / graph, _origin_of(checkpoint, graph))]
    logger.info("%d of %d graphs are current, exporting %d", len(GRAPHS) - len(stale), len(GRAPHS), len(stale))
    _export_all(checkpoint, folder, stale, jobs)
    for graph in (graph for graph in GRAPHS if graph in stale):
        _check_and_seal(checkpoint, folder, graph)
    return folder


def _export_all(checkpoint: Path, folder: Path, graphs: list[str], jobs: int) -> None:
    """Tracing is single-threaded Python, so graphs go to processes of their own."""
    if not graphs:
        return
    with ProcessPoolExecutor(min(jobs, len(graphs)), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_export, checkpoint, folder, graph) for graph in graphs]):
            graph, seconds = future.result()
            logger.info("exported %s in %.0f s", graph, seconds)


def _export(checkpoint: Path, folder: Path, graph: str) -> tuple[str, float]:
    started = time.monotonic()
    module = module_from_checkpoint(checkpoint, GRAPHS[graph].component)
    with written_folder(folder / graph) as partial:  # replaces a stale graph together with its manifest
        onnx_from_module(module, graph, facts_from_checkpoint(checkpoint), partial / "model.onnx")
    return graph, time.monotonic() - started


def _check_and_seal(checkpoint: Path, folder: Path, graph: str) -> None:
    """Parity first, manifest last: a graph without a manifest was never shown to be right."""
    parity = parity_of(graph, checkpoint, folder)
    logger.info("%s agrees with its module: relative error %.1e", graph, max(c.relative for c in parity))
    sealed = manifest(_origin_of(checkpoint, graph), folder / graph / "model.onnx", parity)
    with written_file(folder / graph / "manifest.json") as partial:
        partial.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")


def _origin_of(checkpoint: Path, graph: str) -> dict[str, object]:
    return origin(graph, component_sha256(checkpoint, GRAPHS[graph].component))
