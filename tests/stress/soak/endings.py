"""Endings of a soak's requests. Right endings are one answer with the right bytes, or an expected error."""

import re
from dataclasses import dataclass

FULL = r"are under way \(limit \d+\) and \d+ wait"
# Accepted errors by kind of request. Any request may be refused while the queue is full.
MAY_END_IN = {
    "video": FULL,
    "burst": FULL,
    "deadline": rf"{FULL}|cannot be met|deadline passed|cancelled|DEADLINE_EXCEEDED|DeadlineExceeded",
    "cancelled": FULL,
    "left": FULL,
    "bad": rf"^refused fairly: |{FULL}",
    "inner": rf"^refused fairly: |{FULL}",
    "growing": rf"^refused fairly: |{FULL}",
}


@dataclass(frozen=True)
class Ending:
    """One request, and everything received until its stream or call was closed.

    Attributes:
        kind: one of MAY_END_IN.
        answers: digest of each answer.
        expected: digest of the answer to the same request on the idle server; None if there must be no answer.
        error: the error, if it ended in one.
        left: whether the caller disconnected before the end.
    """

    kind: str
    door: str
    name: str
    answers: tuple[str, ...] = ()
    expected: str | None = None
    error: str = ""
    left: bool = False

    @property
    def outcome(self) -> str:
        """Short name of the outcome, for counting."""
        if self.answers:
            return "answered"
        if self.left:
            return "left"
        return "refused: full" if re.search(FULL, self.error) else "ended in an error"

    @property
    def fault(self) -> str | None:
        """Fault of the ending. None if it was right."""
        found = self._fault()
        return None if found is None else f"{self.kind}, {self.door}, {self.name}: {found}"

    def _fault(self) -> str | None:
        if len(self.answers) > 1:
            return f"answered {len(self.answers)} times"
        if self.answers and self.error:
            return f"answered, and then failed: {self.error}"
        if self.answers and self.expected is None:
            return "answered, though it cannot be"
        if self.answers and self.answers[0] != self.expected:
            return "the same request gave other bytes than alone"
        if self.error and not re.search(MAY_END_IN[self.kind], self.error):
            return f"ended in {self.error}"
        if not (self.answers or self.error or self.left):
            return "lost: neither an answer nor an error"
        return None
