"""A limit on how often Triton is asked whether a caller has cancelled."""

import math
import time
from collections.abc import Callable


def ask_at_most_every(
    seconds: float, is_cancelled: Callable[[], bool], now: Callable[[], float] = time.monotonic
) -> Callable[[], bool]:
    """Wrap `is_cancelled` so that it is called at most once per so many seconds, and never again after a true.

    In between, the last answer holds. `now` is a steady clock.
    """
    cancelled, checked_at = False, -math.inf

    def answer() -> bool:
        nonlocal cancelled, checked_at
        if not cancelled and now() - checked_at >= seconds:
            cancelled, checked_at = bool(is_cancelled()), now()
        return cancelled

    return answer
