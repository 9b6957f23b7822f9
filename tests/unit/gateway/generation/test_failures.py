"""What a server's refusal says: that it is gone, that a process of it is dead, or that it refuses every job."""

import os
from pathlib import Path

import numpy as np
import pytest
from wan_t2v_client import Heartbeat, Unavailable
from wan_t2v_client.deadline import Deadline
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog
from wan_t2v_gateway.generation.failures import is_dead_process, is_lost, refuses_all

from tests.fakes.pb_utils import FakePbUtils, FakeResponse
from tests.fakes.scripted_server import BUSY
from tests.unit.gateway.generation.server_errors import as_client_error
from wan_t2v.contract import STREAM
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.admission.estimate import Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.errors import Draining, MissingOutput, Overloaded
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.tensors import numpy_from_triton

AGAIN = "prepare: cannot answer at the moment, try again: "
KINDS = (is_lost, is_dead_process, refuses_all)


def kinds_of(error: Exception) -> list[object]:
    assert isinstance(error, Unavailable)
    return [kind for kind in KINDS if kind(error)]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Socket closed", is_lost),
        ("recvmsg:Connection reset by peer", is_lost),
        ("Stub process 'text_to_video_stream_0_0' is not healthy.", is_dead_process),
        (f"{AGAIN}Stub process 'prepare_0_0' is not healthy.", is_dead_process),
        ("Failed to obtain the health mutex.", is_dead_process),
        (BUSY, refuses_all),
        (f"{AGAIN}Exceeds maximum queue size", refuses_all),
        ("Server not ready", refuses_all),
        ("the server is stopped accepting new requests", refuses_all),
        (f"{AGAIN}Request for unknown model: 'decode' is not ready", None),
        ("low_noise_expert could not be swapped in for high_noise_expert, try again: no memory", None),
        ("failed to connect to all addresses; last error: Connection refused", None),
    ],
)
def test_a_message_is_of_one_kind_at_most(message: str, kind: object) -> None:
    assert kinds_of(Unavailable(message)) == ([] if kind is None else [kind])


def test_the_servers_own_words_when_it_is_full_or_stops_are_known(tmp_path: Path) -> None:
    run = RunDirectory.of_server(tmp_path / "run", os.getpid())
    full = Admission(run, endpoint=STREAM, limits=AdmissionLimits(0, 0))
    with pytest.raises(Overloaded) as refusal:
        full.enter(QueueOptions(Workload(64, 64, 17, 10, guided=True)))
    for error in (refusal.value, Draining()):
        assert kinds_of(as_client_error(error)) == [refuses_all]


def test_the_servers_own_words_for_an_answer_without_outputs_are_known() -> None:
    engine = TritonEngine(FakePbUtils(lambda *_: FakeResponse()), "vae_decoder", read=numpy_from_triton)
    with pytest.raises(MissingOutput) as failed:
        engine({"latents": np.ones(3)}, ["video"])
    assert kinds_of(as_client_error(failed.value)) == [is_dead_process]


def test_the_servers_own_words_for_a_gpu_fault_are_known() -> None:
    fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert kinds_of(as_client_error(fault)) == [is_dead_process]


def test_a_server_that_fell_silent_is_lost() -> None:
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(None))
    watchdog.record(Heartbeat("prepare", 0.0))
    assert kinds_of(watchdog.limit().error) == [is_lost]
