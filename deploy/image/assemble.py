"""Assemble the model repository to serve: the image's configs and Python models, and links to a volume's plans.

The chart's init container runs it before Triton starts. Faults that would make the server fail later are reported here,
in one line with a remedy: a plan set that is missing or incomplete, a changed file, a plan for another TensorRT or GPU,
server options other than the placement needs. Run it from the folder that contains `export`:

python3 -m deploy.image.assemble --repository /repository --plan-set /plans/NAME --expected-options '[...]' -- --gpu 80
python3 -m deploy.image.assemble --repository /repository --checkpoint training/wan-mini
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch, Running, check_plan
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.engines.tensorrt.tensorrt_module import TensorRtMissing, tensorrt_module
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import PLAN_MANIFEST, ManifestError, PlanManifest, RunningGpu, read_manifest

IMAGE_REPOSITORY = Path("model_repository")
PLAN_SET = "plan_set.json"
REPOSITORY = "model_repository"
JOB_AGAIN = 'docs/run/kubernetes.md says how ("Run the Job again").'


class NotServableError(Exception):
    """A plan set or checkpoint that cannot be served. The message has the reason and the remedy."""


def copy_models(source: Path, repository: Path) -> None:
    """Copy configs and Python models from `source`, without files that an export installed there."""
    wanted = ("config.pbtxt", "configs/*.pbtxt", "1/model.py", "1/.gitkeep")
    for model in sorted(path.parent for path in source.glob("*/config.pbtxt")):
        for path in (match for pattern in wanted for match in model.glob(pattern)):
            target = repository / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def whole_sets(folder: Path) -> list[str]:
    """List the names of the complete plan sets on a volume."""
    return sorted(path.parent.name for path in folder.glob(f"*/{PLAN_SET}"))


def checked_plan_set(plan_set: Path) -> dict[str, str]:
    """Return the SHA-256 by file of a complete plan set, after checking each file. Raises NotServableError."""
    listing = plan_set / PLAN_SET
    if not listing.exists():
        raise NotServableError(
            f"{plan_set} holds no whole set of plans ({PLAN_SET} is missing). The chart's Job builds it, see its log: "
            "`kubectl logs job/...`; or set plans.set to one that is there "
            f"({', '.join(whole_sets(plan_set.parent)) or 'none is'})."
        )
    files: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))["files"]
    for name, expected in files.items():
        path = plan_set / REPOSITORY / name
        if not path.exists() or sha256_of_file(path) != expected:
            state = "changed" if path.exists() else "is gone"
            raise NotServableError(
                f"{path} {state} since its set was built. Remove {listing} and run the Job again. {JOB_AGAIN}"
            )
    return files


def check_plans(repository: Path, gpu: RunningGpu | None) -> None:
    """Refuse a plan for another TensorRT or GPU, or whose memory was not measured. Raises NotServableError."""
    for path in sorted(repository.glob(f"*/*/{PLAN_MANIFEST}")):
        try:
            manifest = read_manifest(PlanManifest, path)
            module = manifest.tensorrt.module
            check_plan(manifest, Running(module, tensorrt_module(module).__version__, gpu))
        except (ManifestError, PlanMismatch, TensorRtMissing) as error:
            raise NotServableError(
                f"{error}. In Kubernetes the chart's Job builds the set for this image and GPU."
            ) from error
        if manifest.device_memory_bytes is None:
            raise NotServableError(
                f"{path} has no device_memory_bytes, so whether the plan fits beside the others is not known: it was "
                "built where no GPU could load it. Build the set on the kind of GPU that will serve it."
            )


def link_plans(plan_set: Path, files: dict[str, str], repository: Path) -> None:
    """Link the set's files into the repository, since plans are too large to copy."""
    for name in files:
        target = repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to((plan_set / REPOSITORY / name).resolve())


def place(repository: Path, placement: list[str], expected: list[str], name: str) -> None:
    """Write the config set `name` of a placement, and compare its server options with `expected`, the chart's.

    Raises NotServableError.
    """
    from export.__main__ import main as export

    printed = io.StringIO()
    arguments = ["placement", *placement, "--repository", str(repository), "--out", name, "--json"]
    with contextlib.redirect_stdout(printed):
        try:
            code = export(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    if code != 0:
        raise NotServableError("the placement does not fit, see above")
    options = json.loads(printed.getvalue())["options"]
    if options != expected:
        raise NotServableError(
            f"the measured plans need other server options than the chart's estimates: {' '.join(options)} and not "
            f"{' '.join(expected)}. Set placement.options to the former."
        )


def export_checkpoint(checkpoint: Path, repository: Path, folder: Path) -> None:
    """Export a small checkpoint into the repository, for ONNX Runtime. Raises NotServableError."""
    command = [sys.executable, "-m", "export", "onnx", "--checkpoint", str(checkpoint), "--folder", str(folder)]
    done = subprocess.run([*command, "--repository", str(repository), "--must-install"], check=False)
    if done.returncode != 0:
        raise NotServableError(f"{checkpoint} could not be exported, see above")


def assemble(options: argparse.Namespace, *, gpu: RunningGpu | None = None) -> None:
    """Make the repository for `gpu`, by default this machine's GPU. Raises NotServableError."""
    copy_models(options.image_repository, options.repository)
    if options.checkpoint is not None:
        export_checkpoint(options.checkpoint, options.repository, options.folder)
        return
    expected = expected_options(options.expected_options)
    files = checked_plan_set(options.plan_set)
    check_plans(options.plan_set / REPOSITORY, gpu or running_gpu())
    link_plans(options.plan_set, files, options.repository)
    place(options.repository, options.placement, expected, options.config_set)


def expected_options(text: str) -> list[str]:
    """Parse the value of `--expected-options`. Raises NotServableError."""
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise NotServableError(
            f"--expected-options {text!r} is not a JSON list of server options; "
            "`python -m export placement ... --out NAME --json` prints one under `options`"
        )
    return options


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repository", type=Path, required=True, help="repository to write; new or empty")
    options.add_argument("--image-repository", type=Path, default=IMAGE_REPOSITORY, help="default: %(default)s")
    kind = options.add_mutually_exclusive_group(required=True)
    kind.add_argument("--plan-set", type=Path, help="folder that build_plans.py made")
    kind.add_argument("--checkpoint", type=Path, help="small checkpoint, to serve on a CPU")
    options.add_argument("--folder", type=Path, default=Path("/tmp/export"), help="graphs of --checkpoint")  # noqa: S108
    options.add_argument("--config-set", default="placed", help="name of the config set (default: %(default)s)")
    options.add_argument("--expected-options", default="[]", help="JSON list of the options the server is started with")
    options.add_argument("placement", nargs="*", help="after --: options of `python -m export placement`")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command. An error prints one line and returns exit code 1."""
    options = parser().parse_args(arguments)
    try:
        assemble(options)
    except NotServableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.repository} can be served")
    return 0


if __name__ == "__main__":
    sys.exit(main())
