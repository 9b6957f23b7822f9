"""Hanging processes and unloaded models. Nothing reports these, so the supervisor must detect them."""

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

PAUSE_S = 2.5  # longer than Triton 2.51's interval of health checks of its Python processes
SHORT_S = SERVER_S - 1  # pause of tritonserver that is too short for the supervisor to restart it
# Few models, since each hang lasts until the supervisor detects it and another server has started.
HANGING = ("high_noise_expert", "denoiser", "text_to_video_stream")
UNLOADED = ("prepare", "denoiser", "low_noise_expert", "text_to_video", "text_to_video_stream")


def hang(victim: Victim, model: str, *, resumed: bool) -> Outcome:
    """Stop a Python process or tritonserver with SIGSTOP during requests; if `resumed`, SIGCONT follows."""
    server_pid = victim.server.pid
    pid = server_pid if model == TRITON else min(stub_pids(server_pid)[model])
    pause_s = SHORT_S if model == TRITON else PAUSE_S

    def do() -> None:
        os.kill(pid, signal.SIGSTOP)
        if resumed:
            time.sleep(pause_s)
            with contextlib.suppress(ProcessLookupError):  # Triton may have killed it meanwhile
                os.kill(pid, signal.SIGCONT)

    victim.reloaded += victim.processes.get(model, 0)
    victim.dies = model != TRITON or not resumed  # Triton 2.51 kills an unhealthy process during its calls and crashes
    outcome = victim.suffer(f"SIGSTOP of {model}, {f'SIGCONT {pause_s:g} s later' if resumed else 'for good'}", do)
    victim.dies = False
    again = _pid(victim) != server_pid
    return replace(outcome, callers=(*outcome.callers, *(["tritonserver was started again"] if again else [])))


def unload(victim: Victim, model: str) -> Outcome:
    """Unload a model during requests, as an operator with the key can, and do not load it again."""
    victim.reloaded += victim.processes.get(model, 0)
    control = ModelControl(victim.server.run_directory)
    return victim.suffer(f"{model} is unloaded with the key", lambda: control.unload(model))


def _pid(victim: Victim) -> int:
    with contextlib.suppress(ServerError):
        return victim.server.pid
    return 0
