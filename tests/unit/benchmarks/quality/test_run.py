"""Which other precisions `make quality` measures beside."""

from pathlib import Path

import pytest

from benchmarks.quality.run import _precision_and_place


def test_another_precision_is_a_folder_a_server_or_openvino(tmp_path: Path) -> None:
    assert _precision_and_place(f"int8={tmp_path}") == ("int8", str(tmp_path))
    assert _precision_and_place("fp8=127.0.0.1:8001") == ("fp8", "127.0.0.1:8001")
    assert _precision_and_place("bf16=openvino") == ("bf16", "openvino")


@pytest.mark.parametrize("text", ["int8", "int8=/nowhere", "=127.0.0.1:8001", "int8=openvino", "openvino"])
def test_what_is_none_of_them_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=f"--also {text}: accepted: .*f32=openvino or bf16=openvino"):
        _precision_and_place(text)
