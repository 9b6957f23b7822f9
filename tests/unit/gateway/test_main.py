"""The command's options, its commands without a name, and its end by a signal."""

import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from wan_t2v_gateway.__main__ import _parser, _settings, main
from wan_t2v_gateway.database import pool
from wan_t2v_gateway.settings import Settings

from tests.child_process import child_process


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


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--workers", "-1", "a whole number from 0 to 1000"),
        ("--workers", "1.5", "a whole number from 0 to 1000"),
        ("--port", "99999", "a whole number from 0 to 65535"),
        ("--redirects", "nan", "a number of seconds from 0 to 604800"),
        ("--redirects", "-1", "a number of seconds from 0 to 604800"),
    ],
)
def test_a_number_that_cannot_be_used_is_refused_at_once(
    option: str, value: str, accepted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings(f"{option}={value}")
    assert f"argument {option}: got {value!r}; accepted: {accepted}\n" in capsys.readouterr().err


def test_a_database_url_that_cannot_be_read_is_refused_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--database-url", "postgres//gateway:secret@host", "keys", "list"])
    told = capsys.readouterr().err
    assert "--database-url: accepted: such as postgresql://USER" in told and "secret" not in told


@pytest.mark.parametrize("command", [["keys", "list"], ["queue", "show"], ["usage"]])
def test_a_database_that_is_away_ends_a_command_with_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_CONNECTION_LIMIT_S", 0.01)
    assert main(["--database-url", "postgresql://127.0.0.1:1/x", *command]) == 1
    assert capsys.readouterr().err == "error: the database does not answer (PoolTimeout)\n"


def test_a_store_that_is_none_ends_the_start_with_one_line(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--database-url", database_url, "--data", str(tmp_path), "--store-url", "nonsense"]
    assert main(options) == 1
    assert "error: --store-url: relative URL without a base; accepted: such as s3://bucket\n" in capsys.readouterr().err


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


GATEWAY = """
import contextlib, signal, sys
from types import SimpleNamespace
from fastapi import FastAPI
from wan_t2v_gateway import __main__ as gateway

@contextlib.contextmanager
def with_database(settings):
    try:
        yield settings
    finally:
        print("database stopped", flush=True)

@contextlib.asynccontextmanager
async def lifespan(app):
    print("serving", flush=True)
    yield

def gateway_app(settings, open_access):
    app = FastAPI(lifespan=lifespan)
    app.state.gateway = SimpleNamespace(stopping=SimpleNamespace(set=lambda: None))
    return app

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this test may be run by nohup
gateway._with_database, gateway.gateway_app = with_database, gateway_app
sys.exit(gateway.main(["--port", "0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_database_too(number: signal.Signals, root: Path) -> None:
    """SIGHUP comes from a terminal that closes; Postgres would run on without the gateway."""
    command = [sys.executable, "-c", GATEWAY]
    with child_process(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "serving\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "database stopped\n"), errors
