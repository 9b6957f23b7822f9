"""Mixed load for half a minute; `make soak` does the same for as long as it is told, and judges memory by it."""

from embedded.server import Server
from tests.soak.soak import soaked


def test_mixed_load_loses_and_doubles_nothing_and_leaves_nothing_behind(server: Server) -> None:
    soak = soaked(server, minutes=0.5, seed=7)
    assert soak.wrong_ends() == []
    assert soak.left_behind() == []
    assert {"video", "cancelled", "bad"} <= {ending.kind for ending in soak.endings}
    assert len(soak.judged()) == len(soak.series)
