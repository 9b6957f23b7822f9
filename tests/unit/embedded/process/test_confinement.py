import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.private_regions import close_regions, keep_regions_private
from embedded.process.confinement import confine
from wan_t2v.operate.stack import STACK_BYTES

PRINT_LIMITS = """
import os, resource
umask = os.umask(0)
print(umask, *resource.getrlimit(resource.RLIMIT_STACK))
"""


def limits_in_a_child() -> tuple[int, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", PRINT_LIMITS], preexec_fn=confine, capture_output=True, text=True, check=True
    )
    umask, soft, hard = map(int, done.stdout.split())
    return umask, soft, hard


MAKE_A_REGION = """
import os, sys
region = os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
for mode in (0o644, 0o640):
    os.fchmod(region, mode)
    print(oct(os.fstat(region).st_mode & 0o777))
"""


def test_a_region_that_the_server_opens_to_all_stays_its_users(tmp_path: Path) -> None:
    """Boost makes shared memory with `shm_open` and then calls `fchmod(0644)`, so that no umask is in its way."""
    command = [sys.executable, "-c", MAKE_A_REGION, str(tmp_path / "region")]
    done = subprocess.run(command, preexec_fn=confine, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0o600", "0o640"]


def test_a_kernel_without_filters_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert not keep_regions_private()


def test_regions_that_were_opened_to_all_are_closed(tmp_path: Path) -> None:
    ours, foreign = tmp_path / "wan_t2v_1_a", tmp_path / "else"
    for path in (ours, foreign):
        path.touch()
        path.chmod(0o644)
    close_regions(tmp_path, "wan_t2v_1_")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (ours, foreign)] == [0o600, 0o644]


def test_files_and_shared_memory_of_the_server_are_its_users_alone() -> None:
    assert limits_in_a_child()[0] == 0o077


def test_the_stack_is_deep_enough_for_a_large_body() -> None:
    """Triton 2.51 puts an HTTP form on the stack of its thread: with the usual 8 MiB 5 MB of it end the server."""
    _, soft, hard = limits_in_a_child()
    assert soft == STACK_BYTES or (hard != resource.RLIM_INFINITY and soft == hard)


def test_a_lower_hard_limit_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**24))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: changed.append((which, limits)))
    monkeypatch.setattr("embedded.process.confinement.end_with_parent", lambda: None)
    monkeypatch.setattr("embedded.process.confinement.keep_regions_private", lambda: True)
    monkeypatch.setattr("os.umask", lambda _: 0)
    confine()
    assert changed == [(resource.RLIMIT_STACK, (2**24, 2**24))]
