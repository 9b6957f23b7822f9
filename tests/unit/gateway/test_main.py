"""The command's options, and its commands without a name."""

from dataclasses import fields
from pathlib import Path

import pytest
from wan_t2v_gateway.__main__ import _parser, _settings, main
from wan_t2v_gateway.settings import Settings


def settings(*arguments: str) -> Settings:
    return _settings(_parser().parse_args(arguments))


def test_without_options_the_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAN_T2V_GATEWAY_DATABASE_URL", raising=False)
    monkeypatch.delenv("WAN_T2V_GATEWAY_STORE_URL", raising=False)
    assert settings() == Settings()


def test_age_and_size_of_what_is_kept_are_options() -> None:
    given = settings("--keep-days", "0.5", "--keep-gib", "20000.25")
    assert (given.keep_s, given.keep_bytes) == (43_200, 20_000 * 2**30 + 2**28)
    changed = {
        field.name for field in fields(Settings) if getattr(given, field.name) != getattr(settings(), field.name)
    }
    assert changed == {"keep_s", "keep_bytes"}


@pytest.mark.parametrize("option", ["--keep-days", "--keep-gib"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e99", "a week", ""])
def test_an_amount_that_keeps_nothing_or_has_no_end_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings(f"{option}={value}")
    assert f"argument {option}: got {value!r}; accepted: a number above 0, at most " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--keep-days", "--keep-gib"])
def test_the_page_names_the_option(option: str) -> None:
    assert f"`{option}" in (Path(__file__).parents[3] / "docs/use/gateway.md").read_text(encoding="utf-8")


def test_the_usage_of_no_owner_at_all_is_no_error(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database-url", database_url, "usage"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("action", ["make", "withdraw", "secret"])
def test_a_key_without_an_owner_is_refused_with_the_whole_command(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database-url", "postgresql://nowhere", "keys", action]) == 2
    assert capsys.readouterr().err == (
        f"error: keys {action} needs the owner's name: wan-t2v-gateway keys {action} NAME\n"
    )
