"""A full shared memory restarts a server that is idle, and no other."""

from pathlib import Path

import pytest

from embedded.supervision import memory_restart
from embedded.supervision.memory_restart import LOOK_S, MemoryRestart
from wan_t2v.operate.load import Load
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import SharedMemoryUse

IDLE = Load(draining=False, in_flight=0, queued=0, finishing=0, left_s=None)
FULL, ROOM = SharedMemoryUse(90, 100), SharedMemoryUse(10, 100)


@pytest.mark.parametrize(
    ("use", "load", "due"),
    [
        (FULL, IDLE, True),
        (ROOM, IDLE, False),
        (FULL, Load(draining=False, in_flight=1, queued=0, finishing=0, left_s=None), False),
        (FULL, Load(draining=False, in_flight=0, queued=1, finishing=0, left_s=None), False),
        (FULL, Load(draining=False, in_flight=0, queued=0, finishing=1, left_s=None), False),
        (FULL, Load(draining=True, in_flight=0, queued=0, finishing=0, left_s=None), False),
    ],
)
def test_it_is_due_when_memory_is_full_and_nobody_waits(
    use: SharedMemoryUse, load: Load, due: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_restart, "load_of", lambda run: load)
    restart = MemoryRestart(lambda: use, RunDirectory(tmp_path))
    assert restart.is_due() is due
    assert restart.found == {"region_bytes": use.region_bytes, "size_bytes": 100}


def test_it_looks_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_restart, "load_of", lambda run: IDLE)
    now = [100.0]
    uses = iter([ROOM, FULL])
    restart = MemoryRestart(lambda: next(uses), RunDirectory(tmp_path), now=lambda: now[0])
    assert not restart.is_due() and not restart.is_due()
    now[0] += LOOK_S
    assert restart.is_due()
