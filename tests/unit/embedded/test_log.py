from pathlib import Path

import pytest

from embedded.log import first_error, was_told_to_stop

HARMLESS = 'E1122 17:24:17.711115 3235 server.cc:241] "CudaDriverHelper has not been initialized."\n'
FAILURE = (
    'I1122 17:24:18.1 3235 model.cc:1] "loading: x"\n'
    "E1122 17:24:19.2 3235 model_lifecycle.cc:642] \"failed to load 'denoiser' version 1: Internal: "
    'FileNotFoundError: größe.json is missing. Run `make export`\\n\\nAt:\\n  /a/facts.py(94): read\\n"\n'
    'E1122 17:24:20.2 3235 other.cc:1] "a consequence"\n'
)


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    """Such as since somebody removed it, or put something else in its place."""
    for log in (tmp_path / "none", tmp_path):
        assert first_error(log) is None and not was_told_to_stop(log)


def test_the_first_error_that_matters_is_found_and_told_in_one_plain_line(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(HARMLESS + FAILURE, encoding="utf-8")
    assert first_error(log) == (
        "failed to load 'denoiser' version 1: Internal: FileNotFoundError: größe.json is missing. Run `make export`"
    )


def test_a_log_without_errors_or_without_a_file_has_none(tmp_path: Path) -> None:
    assert first_error(tmp_path / "none.log") is None
    (tmp_path / "server.log").write_text(HARMLESS)
    assert first_error(tmp_path / "server.log") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Signal (15) received.\nI1123 shutting down\nExit timeout expired. Exiting immediately.\n", True),
        ("Signal (2) received.\n", True),
        ("Signal (11) received.\n 0# 0x000055\n", False),
        ("", False),
    ],
)
def test_a_server_that_was_told_to_stop_is_known_by_its_log(text: str, told: bool, tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(text)
    assert was_told_to_stop(tmp_path / "server.log") is told
