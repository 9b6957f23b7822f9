"""Rehearse A14B's deployment without a GPU: run the image's programs from the checkpoint to a server with all models.

python -m deploy.rehearsal --out build/a14b-plans-rehearsal

The checkpoint is the dummy (no values). The plans are those that TensorRT-RTX can build on a CPU (`builder.py`). The
server is tritonserver on the CPU with a backend that loads no plan (`tensorrt_backend.py`). Everything else is real:
`build_plans` with its export and manifests, `assemble` with its checks and placement.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.image import assemble, build_plans
from embedded.errors import ServerError
from export.__main__ import is_expected
from export.atomic import check_replaceable
from export.disk_space import DiskNeed
from wan_t2v.contract import MODELS_OF_ENDPOINT
from wan_t2v.manifests import RunningGpu

SIZE = "480x832x81"
GPU_GB = "141"  # the VAE runs as Triton plans there, so that every model is loaded
GPU = RunningGpu("rehearsed GPU", "12.0", "0")  # for which TensorRT-RTX builds without a GPU
PRECISIONS = {"--precision": "bf16", "--text-encoder-precision": "bf16", "--vae-precision": "fp32"}
CUT = frozenset({"text_encoder", "high_noise_expert", "low_noise_expert"})
CONFIG_SET = "placed"
MARK = ".rehearsal"  # of a folder that this command made, and may remove


def build_set(checkpoint: Path, into: Path, *, size: str = SIZE, cut: frozenset[str] = CUT) -> Path:
    """Run `build_plans` with a builder that needs no GPU. Returns the path of its `plan_set.json`."""
    arguments = ["--checkpoint", str(checkpoint), "--into", str(into), "--sizes", size, "--tensorrt", "tensorrt_rtx"]
    options = build_plans.parser().parse_args([*arguments, *(part for pair in PRECISIONS.items() for part in pair)])

    from deploy.rehearsal.builder import CUT_PLANS_BYTES

    def run(command: list[str]) -> int:
        if command[0] != "plans":
            return subprocess.run([sys.executable, "-m", "export", *command], check=False).returncode
        _build_plans(command, into / "scratch", cut=cut)
        return 0

    def needs(options: argparse.Namespace) -> list[DiskNeed]:
        whole = build_plans.disk_needs(options)
        print(json.dumps({"step": "disk", "gb": {need.purpose: round(need.needed_bytes / 1e9, 1) for need in whole}}))
        return [*whole[:-1], DiskNeed(into, CUT_PLANS_BYTES, "plans of one block")]

    return build_plans.build_plan_set(options, run=run, needs=needs)


def _build_plans(command: list[str], scratch: Path, *, cut: frozenset[str]) -> None:
    """Run `python -m export plans` with its own arguments and the rehearsal's builder."""
    from deploy.rehearsal.builder import RehearsalBuilder
    from export.__main__ import parser
    from export.checkpoint.folder import Checkpoint
    from export.commands.plans import build_and_install_plans
    from export.graphs.precision import PART_OF
    from export.manifest import manifest_of
    from export.placement.gpu_memory import parse_size

    options = parser().parse_args(command)
    manifests = {graph: manifest_of(options.folder / graph) for graph in PART_OF}
    precisions = {graph: manifest.precision for graph, manifest in manifests.items() if manifest}
    first = parse_size(options.sizes.split(",")[0])
    builder = RehearsalBuilder(Checkpoint.open(options.checkpoint), precisions, scratch, cut=cut, size=first)
    build_and_install_plans(options, options.folder, builder=builder)


def assemble_repository(checkpoint: Path, plan_set: Path, repository: Path, *, size: str = SIZE) -> list[str]:
    """Run `assemble` as the init container does. Returns the server options of the placement."""
    parts = ["--gpu", GPU_GB, "--size", size, "--precision", "bf16", "--vae-precision", "fp32", "--door", "both"]
    placement = [*parts, "--checkpoint", str(checkpoint)]
    expected = _placement_options(placement)
    arguments = ["--repository", str(repository), "--plan-set", str(plan_set), "--config-set", CONFIG_SET]
    options = assemble.parser().parse_args([*arguments, "--expected-options", json.dumps(expected), "--", *placement])
    assemble.assemble(options, gpu=GPU)
    return expected


def _placement_options(placement: list[str]) -> list[str]:
    """Return the server options that `python -m export placement` prints before plans exist."""
    command = [sys.executable, "-m", "export", "placement", *placement, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    options: list[str] = json.loads(done.stdout)["options"]
    return [option.replace("--model-config-name=NAME", f"--model-config-name={CONFIG_SET}") for option in options]


def check_server(repository: Path, log: Path, placement_options: list[str]) -> dict[str, Any]:
    """Start the server, check that every model is loaded, and send a valid and an invalid request to both endpoints.

    Raises RehearsalError or ServerError.
    """
    from deploy.rehearsal.server import RehearsalError, rehearsal_server, write_cpu_configs
    from deploy.rehearsal.tensorrt_backend import ANSWER

    write_cpu_configs(repository, CONFIG_SET)
    with rehearsal_server(repository, log, placement_options) as server:
        states = server.states()
        if set(states.values()) != {"READY"}:
            raise RehearsalError(f"not every model is loaded: {states} (log: {log})")
        for model in MODELS_OF_ENDPOINT:
            for fields, expected in (({"prompt": "a", "height": 100}, "height"), ({"prompt": "a"}, ANSWER)):
                status, text = server.generate(model, fields)
                if expected not in text:
                    raise RehearsalError(f"{model} answered {fields} with {status} {text!r}, expected {expected!r}")
    return states


def is_rehearsal(folder: Path) -> bool:
    """Whether the folder is an earlier rehearsal's."""
    return (folder / MARK).exists()


def rehearse(out: Path) -> None:
    """Run all steps and print one JSON line per step. Raises the errors of its steps."""
    from export.to_onnx.a14b_dummy import A14B_CONFIGS, write_dummy
    from wan_t2v.preview import PREVIEW_FILE, PreviewMap

    check_replaceable(out, is_rehearsal)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    for name in ("set/plans", "set/model_repository", "set/scratch", "repository"):  # current graphs are kept
        shutil.rmtree(out / name, ignore_errors=True)
    checkpoint = out / "checkpoint"
    if not checkpoint.exists():  # an existing one is complete, and may have graphs of an earlier rehearsal
        write_dummy(checkpoint)
    # With its own preview map, the checkpoint needs no fit, which takes 15 minutes of CPU time.
    channels = A14B_CONFIGS["vae/config.json"]["z_dim"]
    preview = PreviewMap([[0.0] * 3] * channels, [0.5] * 3)
    (checkpoint / PREVIEW_FILE).write_text(preview.to_json(), encoding="utf-8")
    plan_set = build_set(checkpoint, out / "set").parent
    plans = {str(path.relative_to(plan_set)): path.stat().st_size for path in sorted(plan_set.rglob("*/1/model.plan"))}
    print(json.dumps({"step": "plans", "plan_bytes": plans}), flush=True)
    options = assemble_repository(checkpoint, plan_set, out / "repository")
    print(json.dumps({"step": "assembled", "server_options": options}), flush=True)
    states = check_server(out / "repository", out / "server.log", options)
    print(json.dumps({"step": "served", "models": states}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command. An error prints one line and returns exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m deploy.rehearsal", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/a14b-plans-rehearsal"), help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="leave checkpoint, plans and repository in that folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("export").setLevel(logging.INFO)
    logging.getLogger("deploy").setLevel(logging.INFO)
    from deploy.rehearsal.server import RehearsalError

    try:
        rehearse(options.out)
    except (RehearsalError, ServerError, build_plans.StepFailedError, assemble.NotServableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.keep:
        shutil.rmtree(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
