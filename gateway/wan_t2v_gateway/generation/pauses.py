"""When a job that was refused is tried again, and when its worker may begin another one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from wan_t2v_client import ServerFault, Unavailable
from wan_t2v_client.errors import AlreadyRunning

from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation.failures import refuses_all
from wan_t2v_gateway.generation.marking import CertificateExpired
from wan_t2v_gateway.queue.tasks import TryAgain
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import FileRefused, StorageUnavailable

Reason = Unavailable | StorageUnavailable | CertificateExpired
_LONGEST_PAUSE_S = 60.0
_HELD_ATTEMPTS = 3  # of a job after which the worker takes no other during the job's whole pause
_SHORT_HOLD_S = 3.0  # after later attempts
_UNTIL_QUEUED_S = 0.2  # for the job to be in the queue, whose clock is the database's, before the next fetch


class Refused(TryAgain):
    """The server or the store refused the job. During `held_s` of the pause its worker begins no other job."""

    def __init__(self, reason: str, seconds: float, *, outage_s: float, held_s: float) -> None:
        super().__init__(reason, seconds, outage_s=outage_s)
        self.held_s = held_s


class Pauses:
    """The pauses of one worker's jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next_job_at = 0.0  # by the monotonic clock
        self._returning = 0  # jobs on their way back into the queue

    def are_over(self) -> bool:
        """Whether another job may begin."""
        return not self._returning and time.monotonic() >= self._next_job_at

    def end(self) -> None:
        """Let other jobs begin: the server has room again."""
        self._next_job_at = 0.0

    @contextmanager
    def after_return(self, refused: Refused) -> Iterator[None]:
        """Begin a job's pause at the end of the context, in which the job is recorded as queued.

        The pause begins once the job is queued, which may take the database longer than the pause. No other job begins
        before that, so this job is first when the pause ends.
        """
        self._returning += bool(refused.held_s)
        try:
            yield
        finally:
            self._returning -= bool(refused.held_s)
            refused.begin_pause()
            if refused.held_s:
                self._next_job_at = max(self._next_job_at, time.monotonic() + refused.held_s + _UNTIL_QUEUED_S)

    def try_again(self, video: Video, error: Reason, *, lost_s: float) -> Refused:
        """Make the exception that returns the job to the queue. Raises ServerFault if the job has waited too long."""
        waited_s = video.outage_s + lost_s
        if waited_s > self._settings.longest_outage_s:
            raise ServerFault(f"given up after {waited_s:.0f} s and {video.attempt} attempts; last: {error}")
        pause_s = self._pause_s(video, error)
        held_s = _held_s(video, error, pause_s)
        return Refused(str(error), pause_s, outage_s=lost_s + pause_s, held_s=held_s)

    def _pause_s(self, video: Video, error: Reason) -> float:
        asked_s = (isinstance(error, Unavailable) and error.retry_after_s) or 0.0
        growing_s = self._settings.retry_s * 2.0 ** min(video.attempt - 1, 16)
        own_s = 1.0 if isinstance(error, AlreadyRunning) else growing_s
        return float(min(_LONGEST_PAUSE_S, max(asked_s, own_s)))


def _held_s(video: Video, error: Reason, pause_s: float) -> float:
    """Return the part of a job's pause in which no other begins.

    A later job would be refused too, and overtake this one when there is room again. But if the refusal may be this
    job's fault, the others must not wait for it for ever: after its pause it goes first again.
    """
    if isinstance(error, AlreadyRunning):  # an earlier try of this job still runs at the server
        return 0.0
    away = isinstance(error, StorageUnavailable) and not isinstance(error, FileRefused)
    all_alike = away or (isinstance(error, Unavailable) and refuses_all(error))
    return pause_s if all_alike or video.attempt <= _HELD_ATTEMPTS else min(pause_s, _SHORT_HOLD_S)
