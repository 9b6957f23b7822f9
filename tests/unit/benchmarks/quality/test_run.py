"""What `make quality` measures: other precisions beside, and which prompts."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import run as module
from benchmarks.quality.run import _precision_and_place, main
from training.world.prompts import PROMPTS


def test_another_precision_is_a_folder_a_server_or_openvino(tmp_path: Path) -> None:
    assert _precision_and_place(f"int8={tmp_path}") == ("int8", str(tmp_path))
    assert _precision_and_place("fp8=127.0.0.1:8001") == ("fp8", "127.0.0.1:8001")
    assert _precision_and_place("bf16=openvino") == ("bf16", "openvino")


@pytest.mark.parametrize("text", ["int8", "int8=/nowhere", "=127.0.0.1:8001", "int8=openvino", "openvino"])
def test_what_is_none_of_them_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=f"--also {text}: accepted: .*f32=openvino or bf16=openvino"):
        _precision_and_place(text)


@pytest.mark.parametrize(
    ("options", "used"),
    [(("--prompts",), 100), (("--count", "7", "--prompts"), 7), ((), PROMPTS), (("--count", "3"), 3)],
)
def test_every_line_of_a_file_is_a_prompt_unless_a_number_is_asked_for(
    options: Sequence[str],
    used: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the first 54 were used, the number of wan-mini's own prompts."""
    counts: list[int] = []

    @contextlib.contextmanager
    def no_servers(*_: Any) -> Iterator[dict[str, Any]]:
        yield {}

    def count(ways: Any, prompts: Sequence[Any], **_: Any) -> None:
        counts.append(len(prompts))
        raise ValueError("counted")

    monkeypatch.setattr(module, "_connect", no_servers)
    monkeypatch.setattr(module, "measure", count)
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {number}\n" for number in range(100)))
    paths = [str(file)] if "--prompts" in options else []
    assert main([*options, *paths, "--profiles", "fast"]) == 1
    assert counts == [used] and "error: counted" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_number_of_prompts_that_is_none_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--count", count])
    assert f"--count: got {count!r}; accepted: an integer, 1 or more" in capsys.readouterr().err
