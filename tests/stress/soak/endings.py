"""How each request of a soak ended, and whether that was right: one answer, the right one, or an error it asked for."""

import re
from dataclasses import dataclass

FULL = r"are under way \(limit \d+\) and \d+ wait"
# What a request may end in besides its video, by kind. Whoever comes while all places are taken is refused.
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
    """One request and all that was heard of it until its stream or call was closed.

    Attributes:
        kind: one of MAY_END_IN.
        answers: the digest of each answer that came.
        expected: the digest of the answer to the same request when nothing else was going on; None if there must be
            no answer at all.
        error: what it ended in, if it did.
        left: whether its caller left before the end.
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
        """One word or two, to count."""
        if self.answers:
            return "answered"
        if self.left:
            return "left"
        return "refused: full" if re.search(FULL, self.error) else "ended in an error"

    @property
    def fault(self) -> str | None:
        """What was wrong with it; None if nothing was."""
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
