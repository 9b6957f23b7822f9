"""The lock on a server's experts, between threads and processes."""

import contextlib
import multiprocessing
import os
import threading
import time
from multiprocessing.synchronize import Event

from wan_t2v.serving.loop import expert_lock
from wan_t2v.serving.loop.expert_lock import server_lock_name


def never() -> bool:
    return False


def hold(name: str, held: Event) -> None:
    with expert_lock.lock_experts(name, never):
        held.set()
        time.sleep(60)


def test_the_lock_holds_between_processes_and_is_free_when_one_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    name, held = f"wan-t2v-test-{time.monotonic_ns()}", context.Event()
    other = context.Process(target=hold, args=(name, held))
    other.start()
    assert held.wait(60)
    assert expert_lock.try_bind(name) is None
    other.kill()
    other.join()
    with contextlib.closing(expert_lock.lock_experts(name, never)):
        assert expert_lock.try_bind(name) is None, "held again"


def test_the_lock_is_the_servers() -> None:
    assert str(threading.get_native_id()) not in server_lock_name()
    assert server_lock_name().endswith(f"-{os.getppid()}")
