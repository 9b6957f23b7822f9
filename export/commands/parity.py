"""Command line of `python -m export parity`: compare graphs with modules, then experts over a whole generation."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.commands.onnx import add_precisions, chosen_folder

if TYPE_CHECKING:
    from export.checkpoint.folder import Checkpoint
    from export.parity.expert_plans import ExpertPlans
    from export.parity.teacher_forced import ReferenceSettings

PROMPT = "a red ball rolls left"


def add_parity(commands: Any, *, checkpoint: Path, folder_of: Callable[[argparse.Namespace], Path]) -> None:
    """Add the command to the parsers of `python -m export`."""
    parser: argparse.ArgumentParser = commands.add_parser("parity", help="compare exported graphs with the modules")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="diffusers folder (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="folder of the exported graphs (default: under build/)")
    parser.add_argument(
        "--steps", type=int, default=20, help="denoising steps of the generation to follow (default: %(default)s)"
    )
    parser.add_argument("--prompt", default=PROMPT, help="prompt of that generation (default: %(default)s)")
    parser.add_argument(
        "--plans",
        type=Path,
        help="model repository with plans, whose experts are compared too, on a GPU, at the smallest of their sizes",
    )
    add_precisions(parser)
    parser.set_defaults(command=lambda options: _parity(options, folder_of(options)))


def _parity(options: argparse.Namespace, folder: Path) -> None:
    from export.checkpoint.folder import Checkpoint, CheckpointError, CheckpointKind

    if options.steps < 2:
        raise CheckpointError(f"--steps {options.steps}: a generation has at least 2 steps.")
    checkpoint = Checkpoint.open(options.checkpoint)
    checkpoint.check()
    folder = chosen_folder(options, folder, checkpoint.default_precisions)
    if not (folder / "high_noise_expert").is_dir():
        raise CheckpointError(f"{folder} has no exported graphs. Run `make export` for this checkpoint and precision.")
    plans = _check_plans(options.plans, folder, checkpoint)
    precision = _compare_graphs(checkpoint, folder)["high_noise_expert"]
    if checkpoint.kind is CheckpointKind.SMALL or plans:
        candidates = _candidates(checkpoint, folder, precision, plans=plans)
        settings = _reference_settings(options, plans)
        _judge(_follow(checkpoint, candidates, settings), folder, precision)


def _check_plans(repository: Path | None, folder: Path, checkpoint: "Checkpoint") -> "ExpertPlans | None":
    """Check the plans of the named repository before any work."""
    from export.parity.expert_plans import check_plans

    return None if repository is None else check_plans(repository, folder, checkpoint)


def _reference_settings(options: argparse.Namespace, plans: "ExpertPlans | None") -> "ReferenceSettings":
    """Return the generation to follow. With plans it has a size of theirs and runs where they run."""
    from export.parity.teacher_forced import ReferenceSettings

    settings = ReferenceSettings(options.prompt, options.steps)
    return settings if plans is None else replace(settings, size=plans.size, device=plans.device)


def _compare_graphs(checkpoint: "Checkpoint", folder: Path) -> dict[str, str]:
    """Print one JSON line per graph. Returns each graph's precision by name."""
    from export.graphs.registry import GRAPHS
    from export.manifest import manifest_of
    from export.parity.graph_parity import parity_of, tolerance

    manifests = {graph: manifest_of(folder / graph) for graph in GRAPHS}
    precisions = {graph: manifest.precision if manifest else "fp32" for graph, manifest in manifests.items()}
    for graph, precision in precisions.items():
        accepted = tolerance(graph, precision)
        if accepted is None:
            print(json.dumps({"graph": graph, "not_compared": f"ONNX Runtime cannot run {precision} on a CPU"}))
            continue
        comparisons = parity_of(graph, checkpoint, folder, precision=precision)
        print(json.dumps({"graph": graph, "tolerance": asdict(accepted), "shapes": [asdict(c) for c in comparisons]}))
    return precisions


def _candidates(
    checkpoint: "Checkpoint", folder: Path, precision: str, *, plans: "ExpertPlans | None"
) -> Mapping[str, Callable[[], Any]]:
    """Return loaders of the experts to compare: torch in BF16, graphs that a CPU can run, plans if named.

    They are loaders so that one candidate is in memory at a time. On a CPU the graphs of a large checkpoint would take
    days.
    """
    from export.checkpoint.folder import CheckpointKind
    from export.parity.graph_parity import tolerance
    from export.parity.report import NOISE_FLOOR
    from export.parity.teacher_forced import graph_experts, torch_experts

    device = plans.device if plans else "cpu"
    candidates: dict[str, Callable[[], Any]] = {NOISE_FLOOR: lambda: torch_experts(checkpoint, "bf16", device)}
    if tolerance("high_noise_expert", precision) is not None and checkpoint.kind is CheckpointKind.SMALL:
        candidates[f"graph {precision}"] = lambda: graph_experts(folder, precision)
    if plans:
        candidates[f"plan {precision}"] = plans.experts
    return candidates


def _follow(
    checkpoint: "Checkpoint", candidates: Mapping[str, Callable[[], Any]], settings: "ReferenceSettings"
) -> dict[str, Any]:
    """Generate with the reference, and report every candidate's error at every step."""
    from tqdm import tqdm

    from export.parity.report import report
    from export.parity.teacher_forced import errors_along, reference_run
    from export.progress_bars import hide_progress_bars_of_diffusers

    hide_progress_bars_of_diffusers()
    with tqdm(total=settings.steps, desc="reference", unit="step") as bar:
        passes = reference_run(checkpoint, settings, lambda _: bar.update())
    errors = {name: errors_along(passes, experts()) for name, experts in tqdm(candidates.items(), unit="candidate")}
    return report(passes, errors)


def _judge(comparison: Mapping[str, Any], folder: Path, precision: str) -> None:
    """Write the report, print one line per candidate, and raise ParityError for a candidate above its limit."""
    from export.parity.graph_parity import ParityError
    from export.parity.report import NOISE_FLOOR, limit_of, worst_median, write_report

    write_report(folder, comparison)
    floor = worst_median(comparison["candidates"][NOISE_FLOOR])
    beyond = []
    for name, candidate in comparison["candidates"].items():
        limit = None if name == NOISE_FLOOR else limit_of(precision, floor)
        print(json.dumps({"candidate": name, "by_expert": candidate["by_expert"], "limit": limit and asdict(limit)}))
        if limit and not worst_median(candidate) <= limit.relative:  # `not <=` is true for NaN
            beyond.append(f"{name}: median error {worst_median(candidate):.1e}, accepted {limit.relative:.1e}")
    if beyond:
        raise ParityError(f"{'; '.join(beyond)}. See {folder / 'trajectory.json'}.")
    print(f"wrote {folder / 'trajectory.json'} and trajectory.png", file=sys.stderr)
