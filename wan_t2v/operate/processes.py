"""The Python processes of a running server, from /proc: one stub per instance of a Python model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STUB = "triton_python_backend_stub"
PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Stub:
    """A Python process of the server. `region` names the shared memory between the process and the server."""

    pid: int
    model: str
    region: str


def stubs(server_pid: int) -> Iterator[Stub]:
    """Find the living stubs of a server."""
    parents = _parents()
    for pid in parents:
        if _descends(pid, server_pid, parents):
            command = _command(pid)
            model = model_of(command)
            if model is not None:
                yield Stub(pid, model, command[2] if len(command) > 2 else "")


def model_file_processes(server_pid: int, model_file: Path) -> int:
    """Count the server's children with a Python model's file on their command line."""
    return sum(parent == server_pid and str(model_file) in _command(pid) for pid, parent, _ in _living())


def stub_pids(server_pid: int) -> dict[str, set[int]]:
    """Living stub processes of the server, by model."""
    pids: dict[str, set[int]] = {}
    for stub in stubs(server_pid):
        pids.setdefault(stub.model, set()).add(stub.pid)
    return pids


def configured_processes(groups: Iterable[tuple[int, int]]) -> int:
    """Return the number of a Python model's processes, from the count and the number of GPUs of each instance group."""
    return max(1, sum(count * max(1, gpus) for count, gpus in groups))


def models_short_of(expected: Mapping[str, int], living: Mapping[str, set[int]]) -> Iterable[str]:
    """Models with fewer processes than are expected of them."""
    return sorted(model for model, count in expected.items() if len(living.get(model, ())) < count)


def has_lost_a_process(
    model: str,
    expected: Mapping[str, int],
    *,
    living: Callable[[], Mapping[str, set[int]]],
    is_loaded: Callable[[str], bool],
) -> bool:
    """Whether a model is short of processes while Triton has it loaded.

    `is_loaded` must not be Triton's readiness: 2.71 also reports a model with a dead process as not ready. It is
    called before and after the processes are counted. The denoiser unloads and loads experts, and a count from before
    a load would look like a death.
    """
    if not is_loaded(model):
        return False
    return model in models_short_of(expected, living()) and is_loaded(model)


def model_of(command: list[str]) -> str | None:
    """Return the model that a stub's command line runs; None for other processes and for a stub that just started."""
    if len(command) < 2 or not command[0].endswith(STUB):
        return None
    return Path(command[1]).parents[1].name  # <repository>/<model>/<version>/model.py


def group_lives(group: int) -> bool:
    """Whether a process of this process group lives."""
    return any(its_group == group for _, _, its_group in _living())


def _parents() -> dict[int, int]:
    """Every living process and its parent."""
    return {pid: parent for pid, parent, _ in _living()}


def _living() -> Iterator[tuple[int, int, int]]:
    """Every living process, its parent and its process group; a zombie is dead."""
    for folder in PROCESSES.iterdir():
        if folder.name.isdecimal():
            try:
                state, parent, group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            except OSError:
                continue  # it ended meanwhile
            if state not in "ZX":
                yield int(folder.name), int(parent), int(group)


def _descends(pid: int, ancestor: int, parents: Mapping[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def _command(pid: int) -> list[str]:
    try:
        raw = (PROCESSES / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]
