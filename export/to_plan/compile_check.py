"""Compile gate: compile every case of the table with TensorRT-RTX, on a CPU.

TensorRT-RTX builds without a GPU. The gate checks that
* each attention of an expert is one layer, which for A14B runs in FP8 if the precision says so;
* each linear layer of A14B's expert runs in the type that its graph states;
* no tensor has more than 2^31 - 1 elements;
* attention does not write its scores to memory: the workspace is too small for the 86 GB at 480x832x81;
* the plan has the size that placement expects.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import onnx

from export.bounded_pool import run_bounded
from export.checkpoint.architecture import Architecture
from export.checkpoint.folder import Checkpoint
from export.graphs.axes import axes_of
from export.graphs.precision import LINEARS_OF_A_BLOCK, attention_is_fp8, is_int8, needs_ranges
from export.manifest import manifest_of, onnx_file
from export.placement.gpu_memory import TEXT_BATCH
from export.to_plan.builder import Attention, BuildError, BuildSettings, PlanShapes, build_in_memory
from export.to_plan.compile_cases import A14B_BLOCKS, SMALL, CompileCase, compile_facts, quantised_blocks
from export.to_plan.engine_layers import FP8, INT8, check_fp8_attention, check_linears, linears_of, read_layers
from export.to_plan.network_check import NetworkError
from export.to_plan.weight_sizes import check_plan_bytes
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module
from wan_t2v.facts import ModelFacts
from wan_t2v.installed_files import sha256_of_file

WORKSPACE_GIB = 16.0


@dataclass(frozen=True)
class CaseResult:
    """Result of one case. `error` is None if it compiled."""

    case: CompileCase
    seconds: float
    detail: str
    error: str | None = None

    def __str__(self) -> str:
        verdict = "FAILED" if self.error else "compiled"
        return f"{verdict} {self.case} in {self.seconds:.1f} s: {self.error or self.detail}"


@dataclass(frozen=True)
class CompileGate:
    """Compiler of cases.

    Attributes:
        checkpoint: the small checkpoint, whose graphs are compiled completely.
        exported: folder of the small checkpoint's exported graphs, used if they are current.
        scratch: folder for new exports, which are removed at the end. Other files in it are left alone.
    """

    checkpoint: Checkpoint
    exported: Path
    scratch: Path

    def check(
        self, cases: Sequence[CompileCase], *, jobs: int, report: Callable[[CaseResult], None]
    ) -> list[CaseResult]:
        """Compile `cases`, `jobs` processes at a time, and return the results.

        Each model, graph and precision gets its own process. `report` is called with each result of a finished process.
        """
        results: list[CaseResult] = []
        self.scratch.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="exports-", dir=self.scratch, ignore_cleanup_errors=True) as own,
            ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
        ):
            gate = replace(self, scratch=Path(own))
            for group, future in run_bounded(pool, gate._check_graph, _by_graph(cases), jobs=jobs):
                for result in _results(future, group):
                    report(result)
                    results.append(result)
        return results

    def _check_graph(self, cases: Sequence[CompileCase]) -> list[CaseResult]:
        """Export a graph once, and compile it for each case."""
        first = cases[0]
        folder = self.scratch / f"{first.model}-{first.graph}-{first.precision}"
        started = time.monotonic()
        try:
            source = self._find_or_export(first, folder)
            exporting = time.monotonic() - started
            return [self._compile(case, source, before=exporting if case is first else 0.0) for case in cases]
        except Exception as error:  # any exporter error counts as a graph that does not compile
            seconds = time.monotonic() - started
            return [CaseResult(case, seconds, "", f"export: {type(error).__name__}: {error}") for case in cases]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _find_or_export(self, case: CompileCase, folder: Path) -> Path:
        """Return the ONNX file that `make export` wrote if it is this case's graph, else export it."""
        ready = onnx_file(self.exported / case.graph)
        if case.model == SMALL and _is_exported(ready, case.precision):
            return ready
        from export.to_plan.compile_modules import compile_graph

        return compile_graph(case.model, case.graph, case.precision, self.checkpoint, folder / "model.onnx")

    def _compile(self, case: CompileCase, source: Path, *, before: float) -> CaseResult:
        architecture = self.checkpoint.architecture
        blocks = architecture.expert.layers if case.model == SMALL else A14B_BLOCKS
        facts = compile_facts(case.model, self.checkpoint.facts)
        return compile_case(case, source, facts, blocks=blocks, architecture=architecture, before=before)


def _results(future: Future[list[CaseResult]], cases: Sequence[CompileCase]) -> list[CaseResult]:
    try:
        return future.result()
    except BrokenProcessPool as error:  # TensorRT aborted, or the system killed the process for lack of memory
        return [CaseResult(case, 0.0, "", f"not compiled, a process of the gate died: {error}") for case in cases]


def summary(results: Iterable[CaseResult], seconds: float) -> str:
    """Return the last line of the command's output, one JSON object."""
    failed = [str(result.case) for result in results if result.error]
    compiled = sum(result.error is None for result in results)
    return json.dumps({"compiled": compiled, "failed": failed, "seconds": round(seconds, 1)})


def _by_graph(cases: Sequence[CompileCase]) -> list[list[CompileCase]]:
    """Group cases that share an export. A14B's, which take longest, come first."""

    def key(case: CompileCase) -> tuple[str, str, str]:
        return (case.model, case.graph, case.precision)

    return [list(group) for _, group in groupby(sorted(cases, key=key), key=key)]


def compile_case(
    case: CompileCase,
    source: Path,
    facts: ModelFacts,
    *,
    blocks: int,
    architecture: Architecture | None = None,
    before: float = 0.0,
) -> CaseResult:
    """Compile one case from its ONNX file. An error of the build becomes the result's `error`.

    `blocks` is an expert's number of blocks, `before` the seconds already spent on the case. With `architecture`, the
    small checkpoint's, the plan's size is compared with placement's.
    """
    started = time.monotonic()
    try:
        detail = _compile(case, source, facts, blocks=blocks, architecture=architecture)
        return CaseResult(case, before + time.monotonic() - started, detail)
    except (BuildError, NetworkError) as error:
        return CaseResult(case, before + time.monotonic() - started, "", str(error))


def _compile(
    case: CompileCase, source: Path, facts: ModelFacts, *, blocks: int, architecture: Architecture | None
) -> str:
    """Build the plan, check its layers and size, and return a description. Raises BuildError or NetworkError."""
    shapes = PlanShapes(
        tuple(axes_of(case.graph, size, facts) for size in case.sizes or (None,)),
        max_batch=1 if case.sizes else TEXT_BATCH,
    )
    attention = Attention(case.attention_per_block * blocks) if case.attention_per_block else None
    listings: list[str] = []
    settings = BuildSettings(
        workspace_gib=WORKSPACE_GIB, title=str(case), on_layers=listings.append if case.attention_per_block else None
    )
    with build_in_memory(tensorrt_module("tensorrt_rtx"), source, shapes, settings, attention=attention) as (
        plan,
        network,
    ):
        plan_bytes = int(plan.nbytes)
    types = _check_layers(case, source, listings[0], blocks) if listings else ""
    if architecture is not None:
        check_plan_bytes(case, architecture, plan_bytes)
    return (
        f"{network.layers} layers, {network.attention_layers} attention, {types}largest tensor {network.largest:,} "
        f"elements, plan {plan_bytes / 1e6:.1f} MB"
    )


def _check_layers(case: CompileCase, source: Path, listing: str, blocks: int) -> str:
    """Compare the types in which TensorRT computes with the graph's. Returns a description. Raises NetworkError."""
    model = onnx.load(source, load_external_data=False)
    linears = linears_of(model)
    count = Counter(linear.type for linear in linears)
    quantised = len(quantised_blocks(case.model, case.precision, blocks)) if needs_ranges(case.precision) else 0
    expected = {INT8 if is_int8(case.precision) else FP8: LINEARS_OF_A_BLOCK * quantised}
    for type_ in (FP8, INT8):
        _check_count("linear layers have their weights", type_, count[type_], expected=expected.get(type_, 0))
    if is_int8(case.precision):
        check_linears([linear for linear in linears if linear.type == INT8], read_layers(listing))
    if case.model == SMALL:  # TensorRT fuses more into products of such small layers, so the list shows less
        return f"linear {dict(count)}, "
    layers = read_layers(listing)
    check_linears(linears, layers)
    attended = check_fp8_attention(model, layers)
    fp8_attentions = case.attention_per_block * quantised if attention_is_fp8(case.precision) else 0
    _check_count("attention layers are", FP8, attended, expected=fp8_attentions)
    return f"linear {dict(count)}, {attended} attention in FP8, "


def _check_count(what: str, type_: str, count: int, *, expected: int) -> None:
    if count != expected:
        raise NetworkError(f"{count} {what} in {type_.upper()}, expected {expected}")


def _is_exported(path: Path, precision: str) -> bool:
    manifest = manifest_of(path.parent)
    if manifest is None or manifest.precision != precision or not path.exists():
        return False
    return sha256_of_file(path) == manifest.onnx_sha256
