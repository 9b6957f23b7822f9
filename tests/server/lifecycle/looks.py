"""What tests of the launcher look at: its events and its shared memory."""

from pathlib import Path
from typing import Any

from embedded.cleanup import SHM_PREFIX


def shared_memory_of(supervisor_pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{SHM_PREFIX}{supervisor_pid}_*"))


def count(events: list[dict[str, Any]], kind: str) -> int:
    return sum(event["event"] == kind for event in events)


def repaired(events: list[dict[str, Any]], model: str) -> bool:
    return any(event["event"] == "repaired" and event["model"] == model for event in events)
