"""Commands of the engine's way. From the repository's root:

python -m export mini                                   make the small checkpoint
python -m export onnx --checkpoint FOLDER               checkpoint to checked ONNX graphs, and install them
python -m export dry-run                                the same with A14B's true shapes and without its weights
python -m export merge-lora --high FILE --low FILE      LoRAs into the experts, into a checkpoint beside
python -m export calibrate --checkpoint FOLDER          watch the experts at work, for FP8 and INT8
python -m export parity --checkpoint FOLDER             compare exported graphs with the checkpoint again
python -m export plans --sizes 480x832x81               exported graphs to TensorRT plans
python -m export compile-check                          compile every graph with TensorRT-RTX, without a GPU
python -m export placement --gpu 80 --size 720x1280     what fits on which GPU, as Triton configs
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from export.commands.calibrate import add_calibrate
from export.commands.lora import add_merge_lora
from export.commands.onnx import add_onnx, disk_error
from export.commands.parity import add_parity
from export.commands.placement import add_placement
from export.commands.plans import add_plans

MINI = Path("checkpoints/wan-mini")
REPOSITORY = Path("model_repository")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; expected failures end in one line and exit code 1."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may fetch: what is missing must be said
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        options.command(options)
    except OSError as error:
        print(f"error: {disk_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def is_expected(error: Exception) -> bool:
    """Whether a message says all; asked of an error only, since these modules import torch and more."""
    from export.checkpoint.config_file import CheckpointError
    from export.commands.plans import CompileCheckFailed
    from export.disk_space import DiskSpaceError
    from export.graphs.precision import PrecisionError
    from export.graphs.sizes import SizeError
    from export.lora.lora_file import LoraError
    from export.parity.graph_parity import ParityError
    from export.placement.gpu_memory import SettingsError
    from export.to_onnx.check import GraphError
    from export.to_plan.builder import BuildError
    from export.to_plan.network_check import NetworkError
    from wan_t2v.engines.tensorrt.tensorrt_module import TensorRtMissing
    from wan_t2v.installed_files import InstalledFileError
    from wan_t2v.manifests import ManifestError

    of_plans = (BuildError, NetworkError, SizeError, SettingsError, TensorRtMissing, CompileCheckFailed)
    of_export = (CheckpointError, GraphError, InstalledFileError, ManifestError, ParityError, PrecisionError)
    return isinstance(error, (*of_plans, *of_export, DiskSpaceError, LoraError))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m export", description=(__doc__ or "").splitlines()[0])
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    mini = commands.add_parser("mini", help="make the small checkpoint, weights seeded random")
    mini.add_argument("--out", type=Path, default=MINI, help="folder to write (default: %(default)s)")
    mini.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    mini.set_defaults(command=_mini)
    add_onnx(commands, checkpoint=MINI, repository=REPOSITORY, folder_of=_folder)
    add_merge_lora(commands, checkpoint=MINI)
    add_calibrate(commands, checkpoint=MINI, folder_of=_folder)
    add_parity(commands, checkpoint=MINI, folder_of=_folder)
    add_plans(commands, checkpoint=MINI, folder_of=_folder)
    add_placement(commands, REPOSITORY)
    return whole


def _mini(options: argparse.Namespace) -> None:
    from export.checkpoint.mini import write_mini_checkpoint

    write_mini_checkpoint(options.out, seed=options.seed)


def _folder(options: argparse.Namespace) -> Path:
    checkpoint: Path = options.checkpoint.resolve()
    parent = "" if checkpoint.parent.name == "checkpoints" else f"{checkpoint.parent.name}-"
    return Path(options.folder or Path("build") / f"{parent}{checkpoint.name}")


if __name__ == "__main__":
    sys.exit(main())
