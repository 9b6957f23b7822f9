"""Who starts and who stops the database of one machine."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest
from wan_t2v_gateway.database import local_postgres as module
from wan_t2v_gateway.database.local_postgres import LocalPostgresError, local_postgres

USER = """
import sys
from pathlib import Path
from wan_t2v_gateway.database.local_postgres import local_postgres
with local_postgres(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.read()
"""

FORKS = """
import ctypes, sys
from pathlib import Path
from wan_t2v_gateway.database.local_postgres import local_postgres
forks = []
before = ctypes.CFUNCTYPE(None)(lambda: forks.append(None))
ctypes.CDLL(None).__register_atfork(before, None, None, None)
with local_postgres(Path(sys.argv[1]), durable=False):
    pass
print(len(forks))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108
    path = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir=memory if memory.is_dir() else None))
    path.chmod(0o755)  # as root, Postgres runs as nobody
    yield path
    if (path / "postgres/postmaster.pid").exists():
        with local_postgres(path, durable=False):  # its last user stops it
            module._run(module._programs(path) / "pg_ctl", "-D", path / "postgres", "-m", "immediate", "stop")
    shutil.rmtree(path)


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=60) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_the_last_of_two_users_stops_it(folder: Path, first_to_leave: int) -> None:
    users = [ExitStack(), ExitStack()]
    urls = {user.enter_context(local_postgres(folder, durable=False)) for user in users}
    assert len(urls) == 1
    users.pop(first_to_leave).close()
    assert answers(*urls)
    users.pop().close()
    assert not answers(*urls)


def test_a_user_that_is_killed_counts_no_more_and_the_next_one_stops_what_it_left(folder: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    victim: subprocess.Popen[str] = subprocess.Popen([sys.executable, "-c", USER, folder], **pipes)  # type: ignore[call-overload]
    try:
        assert victim.stdout is not None
        url = victim.stdout.readline().strip()
    finally:
        victim.kill()
        victim.communicate()
    assert answers(url)
    with local_postgres(folder, durable=False) as joined:
        assert joined == url
    assert not answers(url)


def test_one_that_something_else_started_keeps_running(folder: Path) -> None:
    with local_postgres(folder, durable=False):
        pass
    module._start(module._programs(folder), folder / "postgres", module._free_port(), options=module._QUICK)
    with local_postgres(folder, durable=False) as url:
        pass
    assert answers(url)


def test_users_who_come_at_once_share_one(folder: Path) -> None:
    """The first of them makes it."""
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        users = [local_postgres(folder, durable=False) for _ in range(4)]
        (url,) = set(pool.map(stack.enter_context, users))
        assert answers(url)
    assert not answers(url)


def test_a_process_id_that_belongs_to_another_program_is_told_with_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash of the machine. Postgres would not start either."""
    monkeypatch.setattr(module, "_LISTEN_LIMIT_S", 0.2)
    with local_postgres(folder, durable=False):
        file = folder / "postgres/postmaster.pid"
        lines = file.read_text().split("\n")
    other = subprocess.Popen(["sleep", "600"], user=module._NOBODY if os.geteuid() == 0 else None)
    try:
        file.write_text("\n".join([str(other.pid), *lines[1:]]))
        with pytest.raises(LocalPostgresError, match=f"postmaster.pid names process {other.pid}, .*delete this file"):
            local_postgres(folder, durable=False).__enter__()
    finally:
        other.kill()
        other.wait()
        file.unlink()


def test_the_database_holds_no_lock(folder: Path) -> None:
    with local_postgres(folder, durable=False):
        main = psutil.Process(int((folder / "postgres/postmaster.pid").read_text().split()[0]))
        assert not [file.path for file in main.open_files() if file.path.endswith(".lock")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the handler is registered in glibc")
def test_no_fork_handlers_run_for_its_programs(folder: Path) -> None:
    """Those of gRPC, which the gateway uses by the time it stops Postgres, sometimes crash the child."""
    done = subprocess.run([sys.executable, "-c", FORKS, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"], done.stderr
