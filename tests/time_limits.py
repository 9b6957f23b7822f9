"""Time limits of each phase of a test, in each attempt: pytest-timeout's, and one that ends the process.

pytest-timeout starts its timer once per test and stops it at the first failure. The teardown of a failed test and its
reruns would then have no limit.
"""

import faulthandler
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MORE_S = 5.0


def pytest_configure(config: pytest.Config) -> None:
    """Set the limits if pytest-timeout is there: `-p no:timeout` leaves it out, and a GPU's machine may lack it."""
    timeout = config.pluginmanager.getplugin("timeout")
    if timeout is not None:
        config.pluginmanager.register(PhaseLimits(timeout, timeout.get_env_settings(config).timeout or 0.0))


class PhaseLimits:
    """Limits of a test's setup, call and teardown.

    `timeout` is the module of pytest-timeout. `exit_s` is the limit for the end of the process after the last test.

    The last resort ends the process, with the stacks of its threads. A test whose clean-up waits for ever, as
    ThreadPoolExecutor does for its threads, does not end by pytest-timeout's exception. Nor does the process end, as
    Python waits for the threads that a failed test has left.
    """

    def __init__(self, timeout: Any, exit_s: float) -> None:
        self._timeout, self._exit_s = timeout, exit_s
        self._stderr = os.dup(sys.__stderr__.fileno())  # pytest redirects the descriptor itself while a test runs

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._limits(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._limits(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._limits(item):
            return (yield)

    @contextmanager
    def _limits(self, item: pytest.Item) -> Iterator[None]:
        settings = self._timeout._get_item_settings(item)
        if not settings.timeout or settings.timeout < 0:
            yield
            return
        hooks = item.config.pluginmanager.hook
        hooks.pytest_timeout_cancel_timer(item=item)  # the one of the whole test
        if not settings.func_only:
            hooks.pytest_timeout_set_timer(item=item, settings=settings)
        last_resort = not self._timeout.is_debugging() and not _uses_faulthandlers_timer(item.config)
        if last_resort:
            self._end_after(settings.timeout)
        try:
            yield
        finally:
            if last_resort:
                faulthandler.cancel_dump_traceback_later()
            hooks.pytest_timeout_cancel_timer(item=item)

    def pytest_unconfigure(self) -> None:
        if self._exit_s > 0:
            self._end_after(self._exit_s)

    def _end_after(self, limit_s: float) -> None:
        """End the process well after a limit that should have sufficed."""
        faulthandler.dump_traceback_later(2 * limit_s + MORE_S, exit=True, file=self._stderr)


def _uses_faulthandlers_timer(config: pytest.Config) -> bool:
    """Whether pytest's own plugin has a limit: a process has one such timer."""
    return config.pluginmanager.hasplugin("faulthandler") and float(config.getini("faulthandler_timeout") or 0) > 0
