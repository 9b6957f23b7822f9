"""The load generator's command line."""

import pytest

from benchmarks.load.run import main


@pytest.mark.parametrize("option", ["--rate", "--utilisation"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "often"])
def test_traffic_without_an_end_or_a_beginning_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"{option}={value}"])
    assert f"argument {option}: got {value!r}; accepted: a number above 0\n" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "some"])
def test_a_share_that_is_none_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--cancel-ratio={value}"])
    told = capsys.readouterr().err
    assert f"argument --cancel-ratio: got {value!r}; accepted: a number from 0 to 1\n" in told
