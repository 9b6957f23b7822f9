"""Dry run of A14B's whole export without its weights: a dummy checkpoint, five graphs, all checks without a GPU."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export.atomic import check_replaceable, folder_beside
from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import Checkpoint
from export.checkpoint.layout import MADE_BY_DRY_RUN, is_of_a_dry_run
from export.graphs.precision import Precisions
from export.to_onnx.a14b_dummy import (
    A14B_CONFIGS,
    A14B_PARAMETERS,
    SHARD_BYTES,
    STORED,
    write_dummy,
)
from export.to_onnx.check import GraphError
from export.to_onnx.export_checkpoint import export_checkpoint
from export.to_onnx.export_in_place import InPlaceGraph
from export.to_onnx.graph_export import ExportSettings

Row = dict[str, Any]


def dry_run(
    folder: Path,
    precisions: Precisions,
    *,
    stored: str | None = None,
    configs: Mapping[str, Mapping[str, Any]] = A14B_CONFIGS,
    parameters: Mapping[str, int] = A14B_PARAMETERS,
    shard_bytes: int = SHARD_BYTES,
    jobs: int = 1,
    report: Callable[[Row], None],
) -> None:
    """Write the dummy to `folder`, export it, and call `report` with one row per graph after its checks.

    Manifests go to `<folder>-export`. Both folders are replaced if a dry run made them. `stored` is the type of the
    experts' tensors; None is the published type. Each graph is exported in its own process, so its row has its own peak
    memory; with one job, its seconds are not shared either.
    Raises OccupiedFolderError for another folder. Raises GraphError, also for a graph whose parameter count differs
    from `parameters`.
    """
    manifests = folder_beside(folder, "-export")
    check_replaceable(manifests, is_of_a_dry_run)
    experts = dict.fromkeys(EXPERT_COMPONENTS, stored) if stored else {}
    write_dummy(folder, configs, stored={**STORED, **experts}, shard_bytes=shard_bytes)
    shutil.rmtree(manifests, ignore_errors=True)
    manifests.mkdir()
    (manifests / MADE_BY_DRY_RUN).touch()
    settings = ExportSettings(precisions, external_weights=True, dummy=True, jobs=jobs)
    checkpoint = Checkpoint.open(folder)
    export_checkpoint(checkpoint, manifests, settings, on_written=lambda graph: report(_row(graph, parameters)))


def _row(graph: InPlaceGraph, parameters: Mapping[str, int]) -> Row:
    expected = parameters[graph.graph]
    if graph.external_data.parameters != expected:
        raise GraphError(f"{graph.graph} has {graph.external_data.parameters:,} parameters, expected {expected:,}")
    return {
        "graph": graph.graph,
        "seconds": graph.cost.seconds,
        "cpu_seconds": graph.cost.cpu_seconds,
        "peak_mb": graph.cost.peak_mb,
        "nodes": graph.structure.nodes,
        "parameters": graph.external_data.parameters,
        "onnx_mb": graph.structure.onnx_mb,
        "casts_of_weights": graph.external_data.casts,
        "elements": graph.structure.elements,
    }
