"""Weights that were not downloaded and read as zeros, and good ones that have zeros."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import Checkpoint
from export.checkpoint.layout import MADE_BY_DRY_RUN
from export.checkpoint.weights.safetensors_index import tensors_of_file
from export.checkpoint.weights.tensor_values import check_no_holes
from tests.unit.export.checkpoint.damages import EXPERT, check_refused, half_downloaded
from tests.unit.export.lora.lora_files import MINI


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


def test_a_file_with_holes_is_refused(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (mini / EXPERT).stat().st_size
    message = r"transformer: [0-9]+ matrices hold only zeros, as in a file of .*blocks.*Download it again"
    check_refused(half_downloaded(EXPERT, size // 3), message, mini)
    monkeypatch.setattr("export.checkpoint.folder.MAX_WEIGHTS_BYTES", 0)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(mini).check()


def test_the_zeros_of_a_dry_run_are_meant(mini: Path) -> None:
    half_downloaded(EXPERT, (mini / EXPERT).stat().st_size // 3)(mini)
    (mini / MADE_BY_DRY_RUN).touch()
    Checkpoint.open(mini).check()


def checked(tensors: dict[str, Tensor], folder: Path) -> None:
    save_file(tensors, folder / "model.safetensors")
    check_no_holes("here", tensors_of_file(folder / "model.safetensors"))


def test_biases_norms_and_tables_may_be_zeros(tmp_path: Path) -> None:
    zeros = {"a.bias": (5120,), "norm.weight": (5120,), "scale_shift_table": (1, 6, 512), "gamma.weight": (96, 1, 1)}
    checked({name: torch.zeros(shape) for name, shape in zeros.items()}, tmp_path)


@pytest.mark.parametrize("rows", [[0], [31], [0, 63]])
def test_a_row_of_zeros_is_no_hole(rows: list[int], tmp_path: Path) -> None:
    """As an embedding's rows of the padding token and of unused ones may be: the first and last 4 KiB."""
    matrix = torch.ones(64, 2048)
    matrix[rows] = 0
    checked({"shared.weight": matrix}, tmp_path)


@pytest.mark.parametrize("shape", [(64, 2048), (3, 5), (8, 8, 3, 3, 3)])
def test_a_matrix_of_zeros_is_a_hole(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"here: 1 matrices hold only zeros, .*: a.weight. Download it again"):
        checked({"a.weight": torch.zeros(shape), "b.weight": torch.ones(4, 4)}, tmp_path)


def test_a_component_of_zeros_names_some_of_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="9 matrices .* and 4 more"):
        checked({f"{n}.weight": torch.zeros(4, 4) for n in range(9)}, tmp_path)
