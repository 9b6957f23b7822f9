"""Build one set of TensorRT plans from a checkpoint, on a volume. The chart's Job runs it inside the serving image.

python3 -m deploy.image.build_plans --checkpoint /checkpoint --into /plans/NAME --sizes 480x832x81

It runs `python -m export onnx` and `python -m export plans`, which keep current files and write each file atomically.
An interrupted build can therefore be resumed. `plan_set.json` is written last and has the SHA-256 of every file;
`assemble.py` refuses a set without it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from export.__main__ import is_expected
from export.atomic import write_atomically
from export.disk_space import DiskNeed, check_disk_space
from export.interruption import stopped_by_sigterm
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import PLAN_MANIFEST, PlanManifest, read_manifest

PLAN_SET = "plan_set.json"
REPOSITORY = "model_repository"
PRECISIONS = ("precision", "text-encoder-precision", "vae-precision")


class StepFailedError(Exception):
    """A step of the export that failed. The step has printed its error."""


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Return the steps as arguments of `python -m export`."""
    graphs, repository = options.into / "graphs", options.into / REPOSITORY
    source = ["--checkpoint", str(options.checkpoint), "--folder", str(graphs), "--repository", str(repository)]
    precisions = [
        part
        for name in PRECISIONS
        if (value := getattr(options, name.replace("-", "_"))) is not None
        for part in (f"--{name}", value)
    ]
    plans = [
        "--sizes",
        options.sizes,
        "--expert-batch",
        str(options.expert_batch),
        "--plans",
        str(options.into / "plans"),
    ]
    if options.workspace_gib is not None:
        plans += ["--workspace-gib", str(options.workspace_gib)]
    if options.vae_tf32:
        plans += ["--vae-tf32"]
    if options.tensorrt:
        plans += ["--tensorrt", options.tensorrt]
    if options.fp8_ranges:
        precisions += ["--fp8-ranges", str(options.fp8_ranges)]
    if options.bf16_shards:
        precisions += ["--bf16-shards"]
    return [["onnx", *source, *precisions], ["plans", *source, *plans]]


def run_export(command: list[str]) -> int:
    """Run one step in its own process, and return its exit code.

    A container's runtime sends SIGTERM to this process alone, so it is passed on. The step then removes its partial
    files.
    """
    with subprocess.Popen([sys.executable, "-m", "export", *command]) as step:
        try:
            return step.wait()
        except KeyboardInterrupt:
            step.terminate()
            step.wait()
            raise


def build_plan_set(
    options: argparse.Namespace,
    *,
    run: Callable[[list[str]], int] = run_export,
    needs: Callable[[argparse.Namespace], list[DiskNeed]] | None = None,
) -> Path:
    """Run every step and write `plan_set.json`. Returns its path.

    `needs` returns the disk space of the set, by default `disk_needs`. Raises DiskSpaceError before the first step, or
    StepFailedError.
    """
    check_disk_space((needs or disk_needs)(options))
    for command in commands(options):
        if run(command) != 0:
            raise StepFailedError(f"python -m export {command[0]} failed; what was finished before is kept")
    return write_plan_set(options.into)


def disk_needs(options: argparse.Namespace) -> list[DiskNeed]:
    """Estimate the disk space of the whole set from the checkpoint's config files, without plans that are there."""
    from export.checkpoint.folder import Checkpoint
    from export.graphs.precision import PART_OF
    from export.graphs.sizes import named_sizes
    from export.to_onnx.bf16_shards import bf16_shards_need
    from export.to_onnx.export_checkpoint import graph_needs
    from export.to_plan.estimates import PlanEstimates
    from export.to_plan.plan_specs import PlanSet, plans_of

    checkpoint = Checkpoint.open(options.checkpoint)
    named = (options.precision, options.text_encoder_precision, options.vae_precision)
    defaults = asdict(checkpoint.default_precisions)
    chosen = dict(zip(("experts", "text_encoder", "vae"), named, strict=True))
    precisions = {graph: chosen[part] or defaults[part] for graph, part in PART_OF.items()}
    plan_set = PlanSet(named_sizes(options.sizes, checkpoint.facts), options.expert_batch)
    estimates = PlanEstimates(checkpoint.architecture, precisions, plan_set)
    there = sum(path.stat().st_size for path in options.into.glob("plans/*/*/model.plan"))
    plans = max(0.0, estimates.disk_bytes(plans_of(plan_set, checkpoint.facts)) - there)
    copies = [bf16_shards_need(options.checkpoint)] if options.bf16_shards else []
    graphs = graph_needs(checkpoint, options.into / "graphs")
    return [*graphs, *copies, DiskNeed(options.into, plans, "plans")]


def write_plan_set(into: Path) -> Path:
    """Write `plan_set.json` with the SHA-256 of every file of the set's repository. Returns its path."""
    repository = into / REPOSITORY
    files = {
        str(path.relative_to(repository)): _digest(path) for path in sorted(repository.rglob("*")) if path.is_file()
    }
    with write_atomically(into / PLAN_SET) as partial:
        partial.write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
    return into / PLAN_SET


def _digest(path: Path) -> str:
    manifest = path.with_name(PLAN_MANIFEST)
    if path.name == "model.plan" and manifest.exists():  # the manifest has the hash; reading 28 GB takes minutes
        return read_manifest(PlanManifest, manifest).plan_sha256
    return sha256_of_file(path)


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder; large ones must be writable")
    options.add_argument("--into", type=Path, required=True, help="folder of the set, made if it is not there")
    options.add_argument("--sizes", required=True, help="such as 480x832x81,720x1280x81")
    options.add_argument("--expert-batch", type=int, default=1, help="1, or 2 to merge guidance (default: %(default)s)")
    options.add_argument(
        "--fp8-ranges", type=Path, help="file that `python -m export calibrate` wrote, for experts in FP8 or INT8"
    )
    options.add_argument(
        "--tensorrt", choices=("tensorrt", "tensorrt_rtx"), help="default: the first that is installed"
    )
    options.add_argument(
        "--bf16-shards", action="store_true", help="first copy the experts' FP32 shards into BF16 ones"
    )
    options.add_argument("--workspace-gib", type=float, help="most memory for one layer of a plan (default: estimated)")
    options.add_argument("--vae-tf32", action="store_true", help="let the VAE's FP32 products be computed in TF32")
    for name in PRECISIONS:
        options.add_argument(f"--{name}", help="same as for `python -m export onnx`")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command. An error prints one line and returns exit code 1."""
    options = parser().parse_args(arguments)
    if not (options.checkpoint / "model_index.json").exists():
        print(
            f"error: {options.checkpoint} holds no checkpoint (model_index.json is missing). Put "
            "Wan2.2-T2V-A14B-Diffusers on the volume of checkpoint.existingClaim, at checkpoint.path.",
            file=sys.stderr,
        )
        return 1
    try:
        with stopped_by_sigterm():
            print(f"the set is whole: {build_plan_set(options)}")
    except KeyboardInterrupt:
        print("stopped; what was finished before is kept, and the next run goes on from it", file=sys.stderr)
        return 130
    except (StepFailedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
