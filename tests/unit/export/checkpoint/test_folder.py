"""A checkpoint as a whole: what passes, in which order it is checked, and what the command says."""

import subprocess
import sys
from pathlib import Path

import pytest

from export.__main__ import main
from export.checkpoint.component_configs import read_architecture
from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import Checkpoint
from tests.unit.export.checkpoint.damages import Damage, both_experts, edited, renamed

DAMAGES: dict[str, tuple[Damage, str]] = {
    "surplus layers": (both_experts(num_layers=1), "the weights do not fit config.json; tensors .* surplus: blocks.1"),
    "pickled weights": (renamed("text_encoder", ".safetensors", ".bin"), "in its place is model.bin: pickled weights."),
    "a value of another type": (
        edited("vae/config.json", latents_std=[1.0]),
        "latents_std is .*accepted: a list of 16",
    ),
}


def test_an_intact_checkpoint_passes_both_ways(folder: Path) -> None:
    for external in (False, True):
        Checkpoint.open(folder).check(external_weights=external)
    assert Checkpoint.open(folder).facts.boundary_timestep == 875.0
    assert read_architecture(folder).text_length == 512


def test_the_trained_checkpoint_passes(checkpoint: Path) -> None:
    Checkpoint.open(checkpoint).check()


def test_files_are_checked_before_the_libraries_are_imported(checkpoint: Path) -> None:
    """They take seconds, and most faults are seen without them."""
    code = (
        "import sys; from pathlib import Path; from export.checkpoint.folder import Checkpoint\n"
        f"Checkpoint.open(Path({str(checkpoint)!r})).check_files(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "onnx"} & set(loaded)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("way", ["inside", "external"])
def test_the_command_prints_the_line_and_makes_nothing(
    name: str, way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    out = tmp_path / "out"
    arguments = ["--checkpoint", str(folder), "--folder", str(out), "--repository", str(out), "--weights", way]
    assert main(["onnx", *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and line.count(str(folder)) >= 1
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(line)
    assert not out.exists()
