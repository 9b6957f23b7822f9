"""A checkpoint to one set of TensorRT plans on a volume: what the chart's Job runs, inside the serving image.

python3 -m deploy.image.build_plans --checkpoint /checkpoint --into /plans/NAME --sizes 480x832x81

Runs `python -m export onnx` and `python -m export plans`, which keep what is current and write each file whole or not
at all; so it can be stopped and run again. `plan_set.json` comes last and has the SHA-256 of every file; serving takes
no set without it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from export.atomic import written_file
from export.file_hash import sha256
from export.install import READ_BY, VERSION
from wan_t2v.manifests import PLAN_MANIFEST, PlanManifest, read_manifest

PLAN_SET = "plan_set.json"
REPOSITORY = "model_repository"
PRECISIONS = ("precision", "text-encoder-precision", "vae-precision")


class StepFailedError(Exception):
    """A step of the export ended with an error, which it has printed."""


def commands(options: argparse.Namespace) -> list[list[str]]:
    """The steps as command lines of `python -m export`."""
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
    if options.tensorrt:
        plans += ["--tensorrt", options.tensorrt]
    if options.fp8_ranges:
        precisions += ["--fp8-ranges", str(options.fp8_ranges)]
    return [["onnx", *source, *precisions], ["plans", *source, *plans]]


def built(options: argparse.Namespace) -> Path:
    """Run every step, install the model's facts, and write `plan_set.json`. Returns its path."""
    for command in commands(options):
        if subprocess.run([sys.executable, "-m", "export", *command], check=False).returncode != 0:
            raise StepFailedError(f"python -m export {command[0]} failed; what was finished before is kept")
    install_facts(options.into / "graphs", options.into / REPOSITORY)
    return written_plan_set(options.into)


def install_facts(graphs: Path, repository: Path) -> None:
    """What the models read beside their graphs; `export onnx` installs it for small checkpoints only."""
    for model, names in READ_BY.items():
        for name in names:
            with written_file(repository / model / VERSION / name) as partial:
                partial.write_bytes((graphs / name).read_bytes())


def written_plan_set(into: Path) -> Path:
    """List every file of the set's repository with its SHA-256; the plans' are those of their manifests."""
    repository = into / REPOSITORY
    files = {
        str(path.relative_to(repository)): _digest(path) for path in sorted(repository.rglob("*")) if path.is_file()
    }
    with written_file(into / PLAN_SET) as partial:
        partial.write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
    return into / PLAN_SET


def _digest(path: Path) -> str:
    manifest = path.with_name(PLAN_MANIFEST)
    if path.name == "model.plan" and manifest.exists():  # hashed when it was built; reading 28 GB again takes minutes
        return read_manifest(PlanManifest, manifest).plan_sha256
    return sha256(path)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder; large ones must be writable")
    found.add_argument("--into", type=Path, required=True, help="folder of the set, made if it is not there")
    found.add_argument("--sizes", required=True, help="such as 480x832x81,720x1280x81")
    found.add_argument("--expert-batch", type=int, default=1, help="1, or 2 to merge guidance (default: %(default)s)")
    found.add_argument("--fp8-ranges", type=Path, help="what `python -m export calibrate` wrote, for experts in FP8")
    found.add_argument("--tensorrt", choices=("tensorrt", "tensorrt_rtx"), help="default: the first that is installed")
    for name in PRECISIONS:
        found.add_argument(f"--{name}", help="as of `python -m export onnx`")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Build; exit code 1 with one line of what failed."""
    options = parser().parse_args(arguments)
    if not (options.checkpoint / "model_index.json").exists():
        print(
            f"error: {options.checkpoint} holds no checkpoint (model_index.json is missing). Put "
            "Wan2.2-T2V-A14B-Diffusers on the volume of checkpoint.existingClaim, at checkpoint.path.",
            file=sys.stderr,
        )
        return 1
    try:
        print(f"the set is whole: {built(options)}")
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
