"""Export commands, from a checkpoint to a model repository. Run them from the repository's root:

python -m export mini                                   make the small checkpoint
python -m export onnx --checkpoint FOLDER               export a checkpoint to checked ONNX graphs and install them
python -m export dry-run                                export A14B's true shapes without its weights
python -m export merge-lora --high FILE --low FILE      merge LoRAs into a copy of the checkpoint
python -m export calibrate --checkpoint FOLDER          record activation ranges for FP8 and INT8
python -m export parity --checkpoint FOLDER             compare exported graphs with the checkpoint's modules
python -m export plans --sizes 480x832x81               build TensorRT plans from exported graphs
python -m export compile-check                          compile every graph with TensorRT-RTX, without a GPU
python -m export placement --gpu 80 --size 720x1280     assign models to GPUs and write the Triton configs
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
from export.interruption import stopped_by_sigterm

MINI = Path("checkpoints/wan-mini")
REPOSITORY = Path("model_repository")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. An expected failure prints one line and returns exit code 1."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing file must be an error, not a download
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        with stopped_by_sigterm():
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
    """Whether the error's message suffices without a traceback.

    Called after a failure only: importing the exception classes also imports torch.
    """
    from export.atomic import OccupiedFolderError
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
    return isinstance(error, (*of_plans, *of_export, DiskSpaceError, LoraError, OccupiedFolderError))


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
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
