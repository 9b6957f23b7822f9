"""SIGTERM and SIGHUP: the command cleans up after them as after Ctrl-C."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(KeyboardInterrupt):
    """The process received a signal to end. Handlers of Ctrl-C (KeyboardInterrupt) also handle this."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise Terminated in the main thread for SIGTERM and SIGHUP. An ignored signal (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    default = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in default:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


def run_until_terminated(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as `asyncio.run` does; SIGTERM and SIGHUP cancel it as Ctrl-C does. Then raises Terminated.

    The signals do not raise inside a task, since the event loop would report that exception a second time.
    """
    received: list[int] = []
    caught = [number for number in _SIGNALS if signal.getsignal(number) is _raise]
    try:
        asyncio.run(_cancelled_by(caught, received, main))
    except asyncio.CancelledError:
        if received:
            raise Terminated(received[0]) from None
        raise
    finally:
        for number in caught:  # the event loop has restored the default
            signal.signal(number, _raise)


async def _cancelled_by(signals: list[signal.Signals], received: list[int], main: Coroutine[Any, Any, None]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    with suppress(NotImplementedError):  # Windows
        for number in signals:
            loop.add_signal_handler(number, stop, number)
    await main


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
