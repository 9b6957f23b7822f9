import resource
import subprocess
import sys

import pytest

from embedded.confinement import STACK_BYTES, confine

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
    monkeypatch.setattr("embedded.confinement.end_with_parent", lambda: None)
    monkeypatch.setattr("os.umask", lambda _: 0)
    confine()
    assert changed == [(resource.RLIMIT_STACK, (2**24, 2**24))]
