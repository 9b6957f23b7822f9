"""A test that hangs fails after its limit, and the run goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import sys
from tests.child_process import child_process

def test_one_that_waits_for_ever():
    with child_process([sys.executable, "-c", "import time; time.sleep(3600)"]) as child:
        child.wait()

def test_the_next_one():
    pass
"""
HANGS_AGAIN = """
import threading

attempts = []

def test_one_whose_second_attempt_waits_for_ever():
    attempts.append(1)
    assert len(attempts) > 1
    threading.Event().wait()

def test_the_next_one():
    pass
"""
HANGS_AFTERWARDS = """
import threading
import pytest

@pytest.fixture
def waits_for_ever():
    yield
    threading.Event().wait()

def test_one_that_fails(waits_for_ever):
    assert False

def test_the_next_one():
    pass
"""
NEVER_ENDS = """
import threading
from concurrent.futures import ThreadPoolExecutor

def test_one_whose_clean_up_waits_for_ever():
    with ThreadPoolExecutor() as pool:
        pool.submit(threading.Event().wait).result()
"""
LEAVES_A_THREAD = """
import threading
from concurrent.futures import ThreadPoolExecutor

def test_one_that_leaves_a_thread():
    ThreadPoolExecutor().submit(threading.Event().wait)
"""


def without(*plugins: str) -> list[str]:
    return [option for plugin in plugins for option in ("-p", f"no:{plugin}")]


def run_pytest(root: Path, folder: Path, tests: str, *more: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_hangs.py"
    file.write_text(tests)
    options = [
        "-c",
        str(root / "pyproject.toml"),
        *without("cacheprovider", "warnings"),
        "-p",
        "tests.time_limits",
        *more,
    ]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    ("tests", "options", "outcome", "stack"),
    [
        (HANGS, [], "1 failed, 1 passed", "child.wait()"),
        (HANGS_AGAIN, ["--reruns", "1"], "1 failed, 1 passed, 1 rerun", "threading.Event().wait()"),
        (HANGS_AFTERWARDS, [], "1 failed, 1 passed, 1 error", "threading.Event().wait()"),
    ],
    ids=["test", "rerun", "teardown of a failed test"],
)
def test_what_hangs_fails_and_the_next_test_runs(
    tests: str, options: list[str], outcome: str, stack: str, root: Path, tmp_path: Path
) -> None:
    ended = run_pytest(root, tmp_path, tests, *without("xdist"), "--timeout", "1", *options)
    assert f"{outcome} in" in ended.stdout, ended.stdout + ended.stderr
    assert "Timeout" in ended.stdout and stack in ended.stdout


def test_a_test_that_even_so_does_not_end_ends_its_process(root: Path, tmp_path: Path) -> None:
    ended = run_pytest(root, tmp_path, NEVER_ENDS, *without("xdist"), "--timeout", "0.5")
    assert ended.returncode == 1
    assert "Timeout (0:00:06)!" in ended.stderr and "test_one_whose_clean_up_waits_for_ever" in ended.stderr


def test_a_thread_that_is_left_does_not_keep_the_process(root: Path, tmp_path: Path) -> None:
    ended = run_pytest(root, tmp_path, LEAVES_A_THREAD, *without("xdist"), "--timeout", "0.5")
    assert ended.returncode == 1 and "1 passed" in ended.stdout
    assert "Timeout (0:00:06)!" in ended.stderr and "in _python_exit" in ended.stderr


def test_a_worker_that_ends_so_fails_the_run_with_the_tests_name(root: Path, tmp_path: Path) -> None:
    ended = run_pytest(root, tmp_path, NEVER_ENDS, "-n", "1", "--max-worker-restart", "0", "--timeout", "0.5")
    assert ended.returncode == 1
    assert "FAILED ::test_one_whose_clean_up_waits_for_ever - worker 'gw0' crashed" in ended.stdout, ended.stdout


@pytest.mark.parametrize("options", [without("timeout"), ["--timeout", "0"], ["-o", "faulthandler_timeout=60"]])
def test_a_run_may_do_without_limits_or_with_others(options: list[str], root: Path, tmp_path: Path) -> None:
    ended = run_pytest(root, tmp_path, "def test_one():\n    pass\n", *without("xdist"), *options)
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


def test_every_test_has_a_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) > 0
    assert pytestconfig.pluginmanager.hasplugin("tests.time_limits")
