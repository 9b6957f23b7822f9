"""Processes that stop without dying, and models that somebody takes away: nobody is told, so somebody must look."""

import contextlib
import os
import signal
import time
from dataclasses import replace

from embedded.errors import ServerError
from embedded.supervision.stopped_processes import SERVER_S
from tests.stress.faults.footprint import TRITON
from tests.stress.faults.victim import Outcome, Victim
from wan_t2v.operate.model_control import ModelControl
from wan_t2v.operate.processes import stub_pids

PAUSE_S = 2.5  # Triton 2.51 asks its Python processes more often than that
SHORT_S = SERVER_S - 1  # of tritonserver: too short for the supervisor to give it up
# Whoever waits for a stopped process may wait until the supervisor sees it, and another server takes its time to start.
HANGING = ("high_noise_expert", "denoiser", "text_to_video_stream")
UNLOADED = ("prepare", "denoiser", "low_noise_expert", "text_to_video", "text_to_video_stream")


def hang(victim: Victim, model: str, *, resumed: bool) -> Outcome:
    """SIGSTOP of a Python process or of tritonserver, in the middle of requests; and SIGCONT after a while."""
    server_pid = victim.server.pid
    pid = server_pid if model == TRITON else min(stub_pids(server_pid)[model])
    pause_s = SHORT_S if model == TRITON else PAUSE_S

    def do() -> None:
        os.kill(pid, signal.SIGSTOP)
        if resumed:
            time.sleep(pause_s)
            with contextlib.suppress(ProcessLookupError):  # Triton ended it meanwhile
                os.kill(pid, signal.SIGCONT)

    victim.reloaded += victim.processes.get(model, 0)
    victim.dies = model != TRITON or not resumed  # 2.51 ends an unhealthy process under its calls, and itself with it
    outcome = victim.suffer(f"SIGSTOP of {model}, {f'SIGCONT {pause_s:g} s later' if resumed else 'for good'}", do)
    victim.dies = False
    again = _pid(victim) != server_pid
    return replace(outcome, callers=(*outcome.callers, *(["tritonserver was started again"] if again else [])))


def unload(victim: Victim, model: str) -> Outcome:
    """Somebody with the key unloads a model in the middle of requests, and nobody loads it again."""
    victim.reloaded += victim.processes.get(model, 0)
    control = ModelControl(victim.server.run_directory)
    return victim.suffer(f"{model} is unloaded with the key", lambda: control.unload(model))


def _pid(victim: Victim) -> int:
    with contextlib.suppress(ServerError):
        return victim.server.pid
    return 0
