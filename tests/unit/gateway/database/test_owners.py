"""An owner's options over its keys."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from wan_t2v_gateway.__main__ import main
from wan_t2v_gateway.database.owners import LOCAL

Keys = Callable[..., str]
OPTIONS = {
    "administrator": True,
    "webhook_url": "https://example.com/hook",
    "class": "paid",
    "most_queued": 1,
    "most_running": 2,
    "most_seconds_a_day": 3.5,
}


@pytest.fixture
def keys(database_url: str, capsys: pytest.CaptureFixture[str]) -> Keys:
    """Run the command; returns what it prints, the error stream last."""

    def run(*arguments: str) -> str:
        assert main(["--database-url", database_url, "keys", *arguments]) == 0
        return "".join(capsys.readouterr())

    return run


def options_of(keys: Keys, name: str) -> dict[str, Any]:
    (entry,) = [json.loads(line) for line in keys("list").splitlines() if json.loads(line)["name"] == name]
    return {option: entry[option] for option in OPTIONS}


def made_with_all(keys: Keys, name: str = "anna") -> str:
    given = [part for option, value in OPTIONS.items() if option != "administrator" for part in (option, value)]
    return keys("make", name, "--administrator", *(option_name(str(part)) for part in given))


def option_name(part: str) -> str:
    return f"--{part.replace('_', '-')}" if part in OPTIONS else part


def test_another_key_keeps_every_option_of_the_owner(keys: Keys) -> None:
    assert "replaced" not in made_with_all(keys)
    told = keys("make", "anna")
    assert "replaced: the key that anna had is no longer accepted" in told
    assert options_of(keys, "anna") == OPTIONS


def test_a_withdrawn_owner_comes_back_with_its_options(keys: Keys) -> None:
    made_with_all(keys)
    keys("withdraw", "anna")
    keys("make", "anna")
    assert options_of(keys, "anna") == OPTIONS


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (("--most-queued", "none"), {"most_queued": None}),
        (("--most-running", "none"), {"most_running": None}),
        (("--most-seconds-a-day", "none"), {"most_seconds_a_day": None}),
        (("--most-queued", "7"), {"most_queued": 7}),
        (("--no-administrator",), {"administrator": False}),
        (("--webhook-url", ""), {"webhook_url": ""}),
        (("--class", "standard", "--most-running", "4"), {"class": "standard", "most_running": 4}),
    ],
)
def test_an_option_that_is_given_changes_alone(keys: Keys, arguments: tuple[str, ...], changed: dict[str, Any]) -> None:
    made_with_all(keys)
    keys("make", "anna", *arguments)
    assert options_of(keys, "anna") == OPTIONS | changed


def test_a_new_owner_has_no_limits_and_the_standard_class(start: Any, keys: Keys) -> None:
    start(workers=0)  # it makes the owner of a gateway without keys, whose class is another
    for name in ("anna", LOCAL):
        assert "replaced" not in keys("make", name)
        expected = dict.fromkeys(OPTIONS) | {"administrator": False, "webhook_url": "", "class": "standard"}
        assert options_of(keys, name) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [("--most-queued", "-1"), ("--most-running", "1.5"), ("--most-seconds-a-day", "nan"), ("--most-queued", "9" * 12)],
)
def test_a_limit_that_is_no_limit_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--database-url", "postgresql://nowhere", "keys", "make", "anna", f"{option}={value}"])
    told = capsys.readouterr().err
    assert f"got '{value}'; accepted: a" in told and "or none" in told
