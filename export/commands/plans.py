"""Command lines of `python -m export plans` and `compile-check`."""

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.commands.onnx import add_precisions, chosen_folder, chosen_precisions, job_count, named_precisions
from export.errors import ExpectedError
from wan_t2v.engines.tensorrt.tensorrt_module import MODULES, RTX

if TYPE_CHECKING:
    from export.checkpoint.folder import Checkpoint
    from export.to_plan.measured_build import PlanBuilder
    from export.to_plan.plan_specs import PlanSet


logger = logging.getLogger(__name__)


class CompileCheckFailed(ExpectedError):
    """A graph of the table did not compile, or `--only` matched none."""


def add_plans(commands: Any, *, checkpoint: Path, folder_of: Callable[[argparse.Namespace], Path]) -> None:
    """Add both commands to the parsers of `python -m export`. `folder_of` returns the folder of exported graphs."""
    plans: argparse.ArgumentParser = commands.add_parser("plans", help="build TensorRT plans from exported graphs")
    plans.add_argument("--sizes", help="clip sizes, such as 480x832x81,720x1280 (default: the size served by default)")
    plans.add_argument(
        "--expert-batch",
        type=int,
        default=1,
        help="rows per expert call: 1, or 2 to merge guidance (default: %(default)s)",
    )
    plans.add_argument("--plans", type=Path, help="folder to build in (default: `plans` in the folder of the graphs)")
    plans.add_argument(
        "--repository",
        type=Path,
        help="model repository to put the plans into as well; the first size is its default",
    )
    plans.add_argument("--tensorrt", choices=MODULES, help="which TensorRT (default: the first that is installed)")
    plans.add_argument(
        "--compute-capability", help="GPUs to build for: current, portable or such as 8.6,8.9 (default: by the machine)"
    )
    plans.add_argument(
        "--workspace-gib", type=float, help="most memory for one layer of any plan (default: estimated for each plan)"
    )
    plans.add_argument("--vae-tf32", action="store_true", help="let the VAE's FP32 products be computed in TF32")
    plans.add_argument(
        "--check-only", action="store_true", help="check sizes, precisions and TensorRT, and build nothing"
    )
    add_precisions(plans)
    plans.set_defaults(command=lambda options: build_and_install_plans(options, folder_of(options)))
    for command in (plans, _add_compile_check(commands, folder_of)):
        command.add_argument(
            "--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)"
        )
        command.add_argument("--folder", type=Path, help="folder of the exported graphs (default: under build/)")


def _add_compile_check(commands: Any, folder_of: Callable[[argparse.Namespace], Path]) -> argparse.ArgumentParser:
    check: argparse.ArgumentParser = commands.add_parser(
        "compile-check", help="compile every graph with TensorRT-RTX, without a GPU"
    )
    check.add_argument(
        "--only", metavar="TEXT", action="append", default=[], help="take rows that contain TEXT; repeatable"
    )
    check.add_argument(
        "--smallest-cover",
        action="store_true",
        help="take few rows: each graph, and of each part every precision and size",
    )
    check.add_argument(
        "--jobs", type=job_count, default=2, help="graphs exported at the same time (default: %(default)s)"
    )
    check.add_argument(
        "--scratch", type=Path, default=Path("build/compile-check"), help="folder for exports (default: %(default)s)"
    )
    check.set_defaults(command=lambda options: _compile_check(options, folder_of(options)))
    return check


def build_and_install_plans(options: argparse.Namespace, folder: Path, *, builder: "PlanBuilder | None" = None) -> None:
    """Run the `plans` command. A rehearsal without a GPU passes its own `builder`.

    What the command line says is checked before the graphs are looked at, which the export may not have made yet.
    """
    from export.checkpoint.folder import Checkpoint
    from export.to_onnx.install import install_model_files, mark_unfinished, set_default_size
    from export.to_plan.build_plans import (
        NOT_FOR_THE_BACKEND,
        PlanChoices,
        are_installed,
        build_plans,
        install_plans,
        toolchain,
    )
    from export.to_plan.manifest import check_graphs
    from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module

    checkpoint = Checkpoint.open(options.checkpoint)
    plan_set = _checked_plan_set(options, checkpoint)
    choices = PlanChoices(checkpoint.architecture, options.workspace_gib, vae_tf32=options.vae_tf32)
    tools = toolchain(tensorrt_module(options.tensorrt), options.compute_capability)
    if options.check_only:
        return
    if tools.module == RTX and tools.gpu is not None and options.tensorrt is None:
        logger.warning("building with TensorRT-RTX, the only TensorRT here. %s", NOT_FOR_THE_BACKEND)
    folder = chosen_folder(options, folder, checkpoint.default_precisions)
    plans, repository = options.plans or folder / "plans", options.repository
    check_graphs(folder, checkpoint, named_precisions(options))
    specs = build_plans(folder, plans, plan_set, tools, choices, builder=builder, repository=repository)
    if repository is not None:
        if not are_installed(specs, plans, repository):
            mark_unfinished(folder, repository)
        install_plans(specs, folder, plans, repository)
        install_model_files(folder, repository)
        set_default_size(repository, plan_set.sizes[0])
    print(f"{len(specs)} plans for {', '.join(map(str, plan_set.sizes))} in {repository or plans}")


def _checked_plan_set(options: argparse.Namespace, checkpoint: "Checkpoint") -> "PlanSet":
    """Return the sizes and the batch to build for. Raises SizeError, PrecisionError or BuildError."""
    from export.graphs.precision import PART_OF
    from export.graphs.sizes import named_sizes
    from export.to_plan.plan_specs import PlanSet, check_plan_set, plans_of

    default = "x".join(str(checkpoint.defaults[field]["value"]) for field in ("height", "width", "num_frames"))
    plan_set = PlanSet(named_sizes(options.sizes or default, checkpoint.facts), options.expert_batch)
    precisions = chosen_precisions(options, checkpoint.default_precisions)
    check_plan_set(plan_set, plans_of(plan_set, checkpoint.facts), {graph: precisions.of(graph) for graph in PART_OF})
    return plan_set


def _compile_check(options: argparse.Namespace, folder: Path) -> None:
    from export.checkpoint.folder import Checkpoint
    from export.to_plan.compile_cases import COMPILE_TABLE, smallest_cover
    from export.to_plan.compile_check import CompileGate, summary

    table = smallest_cover(COMPILE_TABLE) if options.smallest_cover else COMPILE_TABLE
    cases = [case for case in table if all(text in str(case) for text in options.only)]
    if not cases:
        raise CompileCheckFailed(f"no row of the table contains {' and '.join(options.only)}")
    started = time.monotonic()
    gate = CompileGate(Checkpoint.open(options.checkpoint), folder, options.scratch)
    results = gate.check(cases, jobs=options.jobs, report=lambda result: print(result, flush=True))
    print(summary(results, time.monotonic() - started))
    failed = sum(result.error is not None for result in results)
    if failed:
        raise CompileCheckFailed(f"{failed} of {len(results)} graphs do not compile")
