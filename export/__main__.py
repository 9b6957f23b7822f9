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
python -m export torch-program --graph text_encoder     trace graphs to programs for the engine `torch`
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
from export.commands.torch_program import add_torch_program
from export.errors import ExpectedError
from export.interruption import stopped_by_sigterm

CHECKPOINT = Path("training/wan-mini")  # the Makefile's default too
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
        print(f"error: {disk_error(error, getattr(options, 'checkpoint', None))}", file=sys.stderr)
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

    Called after a failure only: importing the classes of `wan_t2v` also imports torch.
    """
    if isinstance(error, ExpectedError):
        return True
    from wan_t2v.denoise import NonFiniteLatents, NonFiniteVelocity
    from wan_t2v.engines.tensorrt.profiles import ShapeError
    from wan_t2v.engines.tensorrt.tensorrt_module import TensorRtMissing
    from wan_t2v.engines.tensorrt.tensorrt_plan import PlanError
    from wan_t2v.installed_files import InstalledFileError
    from wan_t2v.manifests import ManifestError

    of_plans = (PlanError, ShapeError, TensorRtMissing)
    return isinstance(error, (*of_plans, InstalledFileError, ManifestError, NonFiniteLatents, NonFiniteVelocity))


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    whole = argparse.ArgumentParser(prog="python -m export", description=(__doc__ or "").splitlines()[0])
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    mini = commands.add_parser("mini", help="make the small checkpoint, weights seeded random")
    mini.add_argument("--out", type=Path, default=MINI, help="folder to write (default: %(default)s)")
    mini.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    mini.set_defaults(command=_mini)
    add_onnx(commands, checkpoint=CHECKPOINT, repository=REPOSITORY, folder_of=_folder)
    add_merge_lora(commands, checkpoint=CHECKPOINT)
    add_calibrate(commands, checkpoint=CHECKPOINT, folder_of=_folder)
    add_parity(commands, checkpoint=CHECKPOINT, folder_of=_folder)
    add_plans(commands, checkpoint=CHECKPOINT, folder_of=_folder)
    add_placement(commands, REPOSITORY)
    add_torch_program(commands, checkpoint=CHECKPOINT, repository=REPOSITORY, folder_of=_folder)
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
