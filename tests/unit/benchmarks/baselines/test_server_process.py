"""Server programs of the comparison: started, and never left behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.baselines.server_process import ServerProcessError, running_server_process
from tests.child_process import child_process
from tests.waiting import wait_until

WAITS = "import sys; sys.path.insert(0, '.'); from benchmarks.baselines.server_process import Announcer; import os, subprocess, time\n"
GOOD = WAITS + "a = Announcer(); print('noise'); a.wait_until_closed({'pid': os.getpid()})"
DEAF = WAITS + (
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "Announcer().wait_until_closed({'pid': os.getpid(), 'child': child.pid}); time.sleep(600)"
)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_program_stops_when_it_is_no_longer_wanted_and_its_noise_is_kept(tmp_path: Path) -> None:
    with running_server_process(["-c", GOOD], tmp_path / "log") as told:
        assert psutil.pid_exists(told["pid"])
    assert gone(told["pid"])
    assert "noise" in (tmp_path / "log").read_text()


def test_it_stops_too_if_the_benchmark_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running_server_process(["-c", GOOD], tmp_path / "log") as told:
        raise ZeroDivisionError
    assert gone(told["pid"])


def test_it_stops_too_if_the_benchmark_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, '.'); from pathlib import Path; from benchmarks.baselines.server_process import *\n"
        f"with running_server_process(['-c', {GOOD!r}], Path({str(tmp_path / 'log')!r})) as told:\n"
        "    print(told['pid'], flush=True); time.sleep(600)"
    )
    with child_process([sys.executable, "-c", code], stdout=subprocess.PIPE) as benchmark:
        assert benchmark.stdout is not None
        program = int(benchmark.stdout.readline())
        benchmark.kill()
    wait_until(lambda: gone(program))


def test_one_that_does_not_stop_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    with running_server_process(["-c", DEAF], tmp_path / "log", stop_limit_s=0.5) as told:
        pass
    assert gone(told["pid"]) and gone(told["child"])


@pytest.mark.parametrize("code", ["raise SystemExit('no such checkpoint')", "import time; time.sleep(60)"])
def test_one_that_does_not_start_is_told_with_its_last_words(code: str, tmp_path: Path) -> None:
    before = set(psutil.Process(os.getpid()).children())  # servers of other tests among them
    with (
        pytest.raises(ServerProcessError, match="did not start") as failure,
        running_server_process(["-c", code], tmp_path / "log", start_limit_s=3.0),
    ):
        pass
    assert ("no such checkpoint" in str(failure.value)) == ("SystemExit" in code)
    started = set(psutil.Process(os.getpid()).children()) - before
    assert not [child for child in started if not gone(child.pid)]
