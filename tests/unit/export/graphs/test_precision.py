import pytest

from export.__main__ import main
from export.graphs.precision import PART_OF, SUPPORTED, PrecisionError, Precisions
from export.graphs.registry import GRAPHS


def test_every_graph_has_a_part_and_every_offer_a_reason() -> None:
    assert PART_OF.keys() == GRAPHS.keys()
    assert set(PART_OF.values()) == SUPPORTED.keys()
    assert all(reason for supported in SUPPORTED.values() for reason in supported.values())
    assert all("fp32" in supported for supported in SUPPORTED.values())


def test_a_graph_has_the_precision_of_its_part() -> None:
    chosen = Precisions(experts="fp16", text_encoder="bf16", vae="fp32")
    assert [chosen.of(graph) for graph in GRAPHS] == ["bf16", "fp16", "fp16", "fp32", "fp32"]


def test_an_unknown_precision_lists_what_is_offered() -> None:
    with pytest.raises(PrecisionError, match=r"--precision int4: unknown. Supported for experts: bf16 \(.*; fp16 \(.*"):
        Precisions(experts="int4")


def test_the_text_encoder_in_fp16_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PrecisionError, match="--text-encoder-precision fp16: refused, T5 overflows in FP16"):
        Precisions(text_encoder="fp16")


def test_the_command_refuses_before_any_work(checkpoint, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "export"
    asked = ["onnx", "--checkpoint", str(checkpoint), "--folder", str(folder), "--vae-precision", "fp8"]
    assert main(asked) == 1
    assert "error: --vae-precision fp8: unknown. Supported for vae: fp32" in capsys.readouterr().err
    assert not folder.exists()
