"""The command `wan-t2v` as a process of its own: exit codes, signals and open files are as users have them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from wan_t2v_client.cli.main import main

from tests.child_process import child_process

DEFAULT_SIGNALS = ["env", "--default-signal=INT,TERM,HUP"]  # whatever the tests' own parent ignores
COMMAND = [*DEFAULT_SIGNALS, sys.executable, "-m", "wan_t2v_client.cli.main"]
SIZE = ["--size", "32x48", "--frames", "5"]


def start_command(
    *arguments: str, environment: Mapping[str, str] | None = None, **streams: Any
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return child_process([*COMMAND, *arguments], env={**os.environ, **(environment or {})}, **pipes)


def run_command(*arguments: str, **options: Any) -> tuple[int, bytes, str]:
    """The exit code, standard output and standard error."""
    with start_command(*arguments, **options) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output or b"", (errors or b"").decode()


def assert_one_line(errors: str, *parts: str) -> None:
    """What a failure may say: one line of the command's own, no traceback, no log of gRPC's."""
    assert errors.count("\n") == 1 and errors.startswith("wan-t2v"), errors
    for part in parts:
        assert part in errors


def run_refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is refused, in this process; return what it said."""
    try:
        code: object = main(arguments)
    except SystemExit as end:  # as argparse ends
        code = end.code
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert_one_line(errors)
    return errors
