"""`python -m export merge-lora` and what `make export` hands to it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from export.__main__ import main
from tests.unit.export.lora.lora_files import MINI, of_diffusers, of_kohya, saved


def test_the_command_merges_and_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    high, low = saved(tmp_path / "a.safetensors", of_diffusers()), saved(tmp_path / "b.safetensors", of_kohya())
    into = tmp_path / "merged"
    options = ["--checkpoint", str(MINI), "--high", str(high), "--low", str(low), "--scale", "0.5", "--into", str(into)]
    assert main(["merge-lora", *options]) == 0
    assert f"merged into {into}" in capsys.readouterr().err
    assert json.loads((into / "merged_loras.json").read_text())["loras"]["transformer"][0]["scale"] == 0.5


def test_a_linked_checkpoint_is_merged_beside_its_link_and_a_dot_beside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the Makefile's default has it."""
    lora = saved(tmp_path / "a.safetensors", of_diffusers())
    (tmp_path / "links").mkdir()
    (tmp_path / "links/wan").symlink_to(shutil.copytree(MINI, tmp_path / "mini"))
    options = ["--high", str(lora), "--low", "none"]
    assert main(["merge-lora", "--checkpoint", str(tmp_path / "links/wan"), *options]) == 0
    monkeypatch.chdir(tmp_path / "mini")
    assert main(["merge-lora", "--checkpoint", ".", *options]) == 0
    told = capsys.readouterr().err
    assert f"merged into {tmp_path}/links/wan-lora\n" in told and f"merged into {tmp_path}/mini-lora\n" in told


def test_a_refusal_is_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "merged"
    assert main(["merge-lora", "--checkpoint", str(MINI), "--high", "a.safetensors", "--into", str(into)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: LORA_HIGH=a.safetensors came without LORA_LOW") and told.count("\n") == 1
    assert not into.exists()


@pytest.mark.parametrize("target", ["export", "calibrate", "parity", "plans", "compile-check"])
def test_every_target_that_takes_a_checkpoint_takes_the_merged_one(target: str, root: Path) -> None:
    asked = ["make", "-C", str(root), "-n", target, "CHECKPOINT=c/m/", "LORA_HIGH=h i", "LORA_LOW=l", "LORA_SCALE=0.7"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    merge = '-m export merge-lora --checkpoint "c/m/" --into "c/m-lora" --scale 0.7'
    if target != "calibrate":  # which exports nothing
        assert f'{merge} \\\n\t--high "h i" --low "l"' in shown or f'{merge} --high "h i" --low "l"' in shown
    command = {"export": "onnx"}.get(target, target)
    assert f'-m export {command} --checkpoint "c/m-lora"' in shown
    plain = subprocess.run(["make", "-C", str(root), "-n", target], capture_output=True, text=True, check=True).stdout
    assert "merge-lora" not in plain and f'-m export {command} --checkpoint "training/wan-mini"' in plain
