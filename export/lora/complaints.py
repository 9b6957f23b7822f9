"""Faults in a LoRA's names and shapes, collected so that one message names all of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from export.checkpoint.config_file import listed
from export.lora.key_formats import ACCEPTED
from export.lora.lora_file import LoraError

_BLOCK = re.compile(r"(?:^|[._])blocks[._](\d+)[._]")
_OF_WAN = "Take a LoRA that was trained for this model's experts (Wan2.2-T2V-A14B)."
_SOME = "If it is meant to change only some blocks, say so: LORA_OPTIONS=--some-blocks."


@dataclass
class Complaints:
    """Faults of the LoRA file `where` for the expert `component`, whose tensor names are `stored`."""

    where: str
    component: str
    stored: Iterable[str]
    surplus: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    remedy: str = _OF_WAN

    def raise_if_foreign(self) -> None:
        """Refuse a file for another number of blocks, or with names of no known format. Raises LoraError."""
        blocks, expected = _blocks_in(self.surplus), len(_blocks_in(self.stored))
        if blocks and max(blocks) >= expected:
            beyond = [name for name in self.surplus if max(_blocks_in([name]), default=0) >= expected]
            raise LoraError(
                f"{self.where} has {max(blocks) + 1} blocks and {self.component} has {expected}: surplus are "
                f"{listed(beyond)}. It was trained for another model. {_OF_WAN}"
            )
        if self.surplus:
            self.remedy = f"Accepted: {ACCEPTED}. {_OF_WAN}"
        self.raise_if_any()

    def check_blocks(self, names: Iterable[str]) -> None:
        """Note the tensors that the file has for some blocks and not for others."""
        there, blocks = set(names), sorted(_blocks_in(self.stored))
        one_of_each = {_with_block(name, "*"): name for name in sorted(there) if _blocks_in([name])}
        for name in one_of_each.values():
            self.missing += [other for block in blocks if (other := _with_block(name, block)) not in there]
        if self.missing:
            self.remedy = (
                f"It has tensors of {len(_blocks_in(there))} blocks, {self.component} has {len(blocks)} blocks. "
                f"Download or save the file again. {_SOME}"
            )

    def lacks(self, name: str, *, beside: str) -> None:
        """Note that `name` is missing: the other factor of the product that `beside` belongs to."""
        if name not in self.missing:
            self.missing.append(f"{name} (beside {beside})")

    def raise_if_any(self) -> None:
        """Raise LoraError if any fault was noted."""
        faults = {
            "missing": self.missing,
            "surplus": self.surplus,
            "of another shape": self.misshapen,
            "there twice": self.twice,
        }
        told = [f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names]
        if told:
            remedy = _OF_WAN if self.misshapen else self.remedy  # blocks that are missing do not make another width
            raise LoraError(f"{self.where} does not fit {self.component}: tensors {'; '.join(told)}. {remedy}")


def _blocks_in(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _BLOCK.search(name))}


def _with_block(name: str, block: int | str) -> str:
    """Replace the block number in a name."""
    match = _BLOCK.search(name)
    assert match is not None
    return f"{name[: match.start(1)]}{block}{name[match.end(1) :]}"
