"""Mixed load for half a minute; `make soak` does the same for as long as it is told, and judges memory by it."""

import os
import signal

import pytest

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.stress.soak.soak import soaked


def test_mixed_load_loses_and_doubles_nothing_and_leaves_nothing_behind(server: Server) -> None:
    soak = soaked(server, minutes=0.5, seed=7)
    assert soak.wrong_ends() == []
    assert soak.left_behind() == []
    assert {"video", "cancelled", "bad"} <= {ending.kind for ending in soak.endings}
    assert len(soak.judged()) == len(soak.series)


@pytest.mark.nightly
def test_a_server_that_dies_ends_it_with_its_last_words(options: ServerOptions) -> None:
    with running_server(options) as mortal, pytest.raises(ServerError, match="the server died after 0.. min"):
        soaked(mortal, minutes=2, seed=7, tell=lambda line: os.kill(mortal.pid, signal.SIGKILL))
