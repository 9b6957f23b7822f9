"""Export of one graph: write it, check its shapes, compare it with its module, write its manifest."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from diffusers import WanTransformer3DModel
from torch import nn

from export.atomic import check_replaceable, holds_only, write_atomically, write_folder_atomically
from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.graphs.precision import (
    IN_ONNX_RUNTIME,
    PrecisionError,
    Precisions,
    io_precision,
    is_int8,
    needs_ranges,
)
from export.graphs.quantised_experts import quantise, ranges_of
from export.graphs.registry import GRAPHS
from export.manifest import ONNX
from export.parity.graph_parity import Comparison, parity_of, tolerance
from export.parity.integer_products import check_integer_products
from export.quantisation.ranges import read_ranges, sha256_of
from export.to_onnx.bf16_shards import bf16_folder
from export.to_onnx.check import check_shapes
from export.to_onnx.export_in_place import CHECKED_SIZES, InPlaceGraph, export_in_place, in_place_path
from export.to_onnx.exporter import onnx_from_module
from export.to_onnx.manifest import graph_manifest, is_current, origin
from export.unchanged_checkpoint import check_unchanged
from wan_t2v.contract import EXPERTS
from wan_t2v.manifests import GRAPH_MANIFEST, GraphOrigin, to_json

logger = logging.getLogger(__name__)

_holds_a_graph = holds_only(ONNX, GRAPH_MANIFEST)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        precisions: precision of each part of the model.
        external_weights: whether the weights stay in the checkpoint's files, with the graphs written beside them.
        dummy: whether the checkpoint has shapes and no values, so that parity cannot be checked.
        jobs: number of graphs traced in parallel.
        fp8_ranges: file of calibrated ranges; read for FP8 and INT8 precisions only.
        bf16_shards: whether the experts' weights are first copied to BF16 shards, to which the graphs then refer.

    Raises PrecisionError for BF16 shards without external weights, or for experts without BF16 inputs and outputs.
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
                f"BF16 shards: experts in {self.precisions.experts}, accepted: bf16, fp8, fp8-attention, int8-bf16"
            )


@dataclass(frozen=True)
class GraphExport:
    """Export of one graph of `checkpoint` into an export's `folder`."""

    graph: str
    checkpoint: Checkpoint
    folder: Path
    settings: ExportSettings

    @property
    def precision(self) -> str:
        """Precision of this graph."""
        return self.settings.precisions.of(self.graph)

    @property
    def is_current(self) -> bool:
        """Whether the folder has this graph already, made from the same weights by the same code and settings."""
        return is_current(self.folder / self.graph, self._origin)

    def check_folder(self) -> None:
        """Refuse to replace a folder that holds something other than a graph. Raises OccupiedFolderError."""
        check_replaceable(self.folder / self.graph, _holds_a_graph)

    def check_ranges(self) -> None:
        """Refuse FP8 or INT8 without calibrated ranges, before minutes of tracing. Raises CheckpointError."""
        if needs_ranges(self.precision):
            self._ranges(blocks=0)

    def write(self) -> InPlaceGraph | None:
        """Write the graph and check its shapes. Returns the graph if it was written beside the checkpoint's shards.

        A stale graph is replaced and its manifest removed.
        Raises GraphError, and OccupiedFolderError if the graph's folder holds something other than a graph.
        """
        with write_folder_atomically(self.folder / self.graph, made_here=_holds_a_graph) as partial:
            if self.settings.external_weights:
                return export_in_place(
                    self.checkpoint,
                    self.graph,
                    self.precision,
                    prepare=self._in_precision,
                    weights_folder=self._bf16_shards,
                )
            module = self._in_precision(self.checkpoint.module(GRAPHS[self.graph].component, self.precision))
            onnx_from_module(module, self.graph, self.checkpoint.facts, partial / ONNX)
            check_shapes(partial / ONNX, self.graph, self.checkpoint.facts, CHECKED_SIZES)
        return None

    def seal(self, in_place: InPlaceGraph | None) -> None:
        """Compare the graph with its module, then write its manifest. A graph without a manifest is unverified.

        Raises ParityError, and CheckpointError for a checkpoint that changed since it was hashed.
        """
        parity, reason = self._compare()
        path = in_place.path if in_place else self.folder / self.graph / ONNX
        manifest = graph_manifest(self._origin, path, parity, not_compared=reason)
        if in_place:
            manifest = replace(
                manifest,
                onnx=str(in_place.path.resolve()),
                weights=asdict(in_place.external_data),
                structure=asdict(in_place.structure),
            )
        check_unchanged(self.checkpoint, GRAPHS[self.graph].component)
        with write_atomically(self.folder / self.graph / GRAPH_MANIFEST) as partial:
            partial.write_text(to_json(manifest), encoding="utf-8")

    @property
    def _bf16_shards(self) -> Path | None:
        """Folder of the BF16 shards that the graph refers to. None if it refers to the checkpoint's own shards."""
        copied = self.settings.bf16_shards and self.graph in EXPERTS
        return bf16_folder(self.checkpoint.folder) if copied else None

    @property
    def _path(self) -> Path:
        return self._in_place_path if self.settings.external_weights else self.folder / self.graph / ONNX

    @property
    def _in_place_path(self) -> Path:
        return in_place_path(self._bf16_shards or self.checkpoint.folder, self.graph, self.precision)

    @property
    def _origin(self) -> GraphOrigin:
        component, merged = GRAPHS[self.graph].component, self.checkpoint.merged_loras
        return origin(
            self.graph,
            self.checkpoint.hash_of(component),
            self.precision,
            fp8_ranges_sha256=sha256_of(self.settings.fp8_ranges) if needs_ranges(self.precision) else None,
            bf16_shards=self._bf16_shards is not None,
            loras=merged.loras.get(component) if merged else None,
        )

    def _in_precision(self, module: nn.Module) -> nn.Module:
        """Quantise an expert in place for FP8 or INT8, and return the module."""
        if needs_ranges(self.precision):
            expert = cast(WanTransformer3DModel, module)
            quantise(expert, self.precision, self._ranges(blocks=len(expert.blocks)))
        return module

    def _ranges(self, *, blocks: int) -> Mapping[str, float]:
        names = ranges_of(self.precision, blocks)
        if self.settings.dummy:
            return dict.fromkeys(names, 1.0)
        component = GRAPHS[self.graph].component
        wanted = self.checkpoint.hash_of(component).sha256
        return read_ranges(self.settings.fp8_ranges, component, names=names, checkpoint_hash=wanted)

    def _compare(self) -> tuple[list[Comparison], str | None]:
        """Return the parity figures, or no figures and the reason why."""
        if tolerance(self.graph, self.precision) is None:
            return [], f"ONNX Runtime cannot run {self.precision} on a CPU; structure, types and shapes were checked"
        if self.settings.dummy:
            return [], "the checkpoint is a dummy without values; structure, types and shapes were checked"
        if self.checkpoint.kind is CheckpointKind.LARGE:
            return [], "the module is too large to load beside the graph; structure, types and shapes were checked"
        if is_int8(self.precision):
            check_integer_products(self._path, self.checkpoint.architecture.expert.layers)
        in_place = {graph: replace(self, graph=graph)._in_place_path for graph in GRAPHS}
        files = in_place if self.settings.external_weights else None
        parity = parity_of(self.graph, self.checkpoint, self.folder, precision=self.precision, files=files)
        logger.info("%s agrees with its module: relative error %.1e", self.graph, max(c.relative for c in parity))
        return parity, None
