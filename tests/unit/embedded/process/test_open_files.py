"""The limit on open files is raised as far as is allowed, and told where it stays low."""

import subprocess
import sys

import pytest

from embedded.options import ServerOptions
from embedded.process.open_files import LEAST
from embedded.supervision import supervisor
from embedded.supervision.supervisor import Supervisor

PROGRAM = (
    "import os, resource, sys\nfrom embedded.process.open_files import raise_limit\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))\n"
    "if os.geteuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
)


@pytest.mark.parametrize(("hard", "limit"), [(256, 256), (4096, 4096)])
def test_it_is_raised_to_what_this_user_may_have(hard: int, limit: int, root) -> None:
    finished = subprocess.run([sys.executable, "-c", PROGRAM, str(hard)], cwd=root, capture_output=True, text=True)
    assert finished.stdout.split() == [str(limit), str(limit), str(hard)], finished.stderr


def test_a_low_limit_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "raise_limit", lambda: LEAST - 1)
    monkeypatch.setattr(Supervisor, "_serve", lambda keeper: None)
    events: list[dict] = []
    Supervisor(ServerOptions(), report=events.append).run()
    assert events == [{"event": "few open files", "limit": LEAST - 1, "remedy": f"ulimit -n {LEAST} or more"}]
