"""What holds for every command of `python -m export`."""

import argparse
import re

import pytest

import export.__main__
from export.__main__ import CHECKPOINT, is_expected, main, parser
from tests.conftest import ROOT
from wan_t2v.denoise import NonFiniteVelocity
from wan_t2v.engines.tensorrt.profiles import ShapeError
from wan_t2v.engines.tensorrt.tensorrt_plan import PlanError


def test_commands_take_the_checkpoint_that_make_takes() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^CHECKPOINT \?= (.*)$", makefile, re.MULTILINE) == [str(CHECKPOINT)]
    for command in ("onnx", "merge-lora", "calibrate", "parity", "plans", "compile-check", "torch-program"):
        assert parser().parse_args([command]).checkpoint == CHECKPOINT


@pytest.mark.parametrize("kind", [PlanError, ShapeError, NonFiniteVelocity])
def test_what_a_comparison_of_plans_raises_is_told_in_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("the plan does not load") if kind is not NonFiniteVelocity else kind(3, "high_noise_expert")

    def fail(options: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(export.__main__, "_mini", fail)
    assert main(["mini"]) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_fault_of_the_code_keeps_its_traceback() -> None:
    assert not is_expected(KeyError("x")) and not is_expected(ValueError("x"))
