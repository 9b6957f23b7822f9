"""Processes killed in the middle of requests at both doors; `make faults` kills each one."""

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.faults.faults import Victim


def test_the_server_serves_again_and_every_caller_is_told(options: ServerOptions) -> None:
    with running_server(options) as server:
        victim = Victim(server)
        outcomes = [victim.kill("denoiser", 0), victim.kill("high_noise_expert", 1), victim.lose_a_caller()]
    assert [outcome.faults for outcome in outcomes] == [(), (), ()]
    assert any("Unavailable" in told for told in outcomes[1].callers), "a pass of the dead expert was on its way"
