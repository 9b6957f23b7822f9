"""Failures of the supervisor's own checks, such as on a machine that can start no thread: no reason to end a server."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from embedded.errors import ServerError


@dataclass
class CheckFailures:
    """Failed checks of one server. `report` is called once per check and kind of exception."""

    report: Callable[[dict[str, Any]], None]
    _reported: set[tuple[str, type[Exception]]] = field(default_factory=set)

    @contextlib.contextmanager
    def passed_over(self, check: str) -> Iterator[None]:
        """Report an exception of this check, and go on after it. ServerError passes: it ends the server on purpose."""
        try:
            yield
        except ServerError:
            raise
        except Exception as error:
            kind = (check, type(error))
            if kind not in self._reported:
                self._reported.add(kind)
                self.report({"event": "check failed", "check": check, "error": f"{type(error).__name__}: {error}"})
