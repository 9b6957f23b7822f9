"""What a server's refusal says: that it is gone, that a process of it is dead, or that it refuses every job."""

import os
from pathlib import Path

import pytest
from wan_t2v_client import Unavailable
from wan_t2v_gateway.generation.failures import is_dead_process, is_lost, refuses_all

from tests.fakes.scripted_server import BUSY
from wan_t2v.contract import STREAM
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.errors import Draining, Overloaded

AGAIN = "prepare: cannot answer at the moment, try again: "


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Socket closed", is_lost),
        ("recvmsg:Connection reset by peer", is_lost),
        ("the server gave no sign of life for 30 s; the request was cancelled", is_lost),
        ("Stub process 'text_to_video_stream_0_0' is not healthy.", is_dead_process),
        (f"{AGAIN}Stub process 'prepare_0_0' is not healthy.", is_dead_process),
        ("Failed to obtain the health mutex.", is_dead_process),
        (f"{AGAIN}it answered without video", is_dead_process),
        (BUSY, refuses_all),
        (f"{AGAIN}Exceeds maximum queue size", refuses_all),
        ("Server not ready", refuses_all),
        ("the server is stopped accepting new requests", refuses_all),
        ("a request with the key 'x' is being worked on", None),
        (f"{AGAIN}Request for unknown model: 'decode' is not ready", None),
        ("low_noise_expert could not be swapped in for high_noise_expert, try again: no memory", None),
        ("failed to connect to all addresses; last error: Connection refused", None),
    ],
)
def test_a_message_is_of_one_kind_at_most(message: str, kind: object) -> None:
    kinds = [kind for kind in (is_lost, is_dead_process, refuses_all) if kind(Unavailable(message))]
    assert kinds == ([] if kind is None else [kind])


def test_the_servers_own_words_when_it_is_full_or_stops_are_known(tmp_path: Path) -> None:
    run = RunDirectory.of_server(tmp_path / "run", os.getpid())
    full = Admission(run, endpoint=STREAM, limits=AdmissionLimits(0, 0))
    with pytest.raises(Overloaded) as refusal:
        full.enter(QueueOptions(Workload(64, 64, 17, 10, guided=True)))
    for error in (refusal.value, Draining()):
        assert refuses_all(Unavailable(str(error)))
