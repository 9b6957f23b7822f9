"""Text and JSON files of a checkpoint. Each value is checked when it is read.

Standard library only, so placement can read the configs before the weights are downloaded.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from export.errors import ExpectedError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
DOWNLOAD = "hf download Wan-AI/Wan2.2-T2V-A14B-Diffusers --local-dir FOLDER"
# Files that a downloader keeps beside a file of full length until all parts of it are there: aria2, axel, lftp.
_DOWNLOAD_STATES = (".aria2", ".st", ".lftp-pget-status")
MOST = 2**24  # no size, count or length in a config is larger
_NAMED = 5  # most names that a message lists; it counts the others


class CheckpointError(ExpectedError):
    """A folder that is no Wan2.2-T2V checkpoint in diffusers' layout. The message has the fault and the remedy."""


def read_text(path: Path) -> str:
    """Read a checkpoint file as UTF-8 text. Raises CheckpointError."""
    content = _content(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text (byte {error.start}). Download it again.") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a checkpoint file as a JSON object. Raises CheckpointError."""
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=object_without_repeats)
    except (ValueError, RecursionError) as error:  # int() raises ValueError for numbers of thousands of digits
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, accepted: an object. Download it again.")
    return content


def object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse repeated names; an `object_pairs_hook` for `json.loads`, which would silently take the last value.

    Raises ValueError.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name[:80]} stands there twice")
    return values


def check_is_no_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer file in place of the file itself. Raises CheckpointError."""
    if _first_bytes(path).startswith(LFS_POINTER):
        raise CheckpointError(
            f"{path} is a pointer file of Git LFS and not the file itself: the checkpoint was cloned without its "
            f"contents. Run `git lfs pull` in the clone, or `{DOWNLOAD}`."
        )


def check_is_downloaded(path: Path) -> None:
    """Refuse a file whose download has not ended: missing parts read as zeros. Raises CheckpointError."""
    for suffix in _DOWNLOAD_STATES:
        state = path.with_name(path.name + suffix)
        if state.exists():
            raise CheckpointError(
                f"{path} is not whole: {state.name} beside it says that its download has not ended. Let the download "
                "end, or start it again. If the file is whole, remove that other one."
            )


def listed(names: Sequence[str]) -> str:
    """Join the first names, and count the others."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file that exists and cannot be read."""
    return CheckpointError(f"{path} cannot be read ({error.strerror}). Mend its rights or kind, or download it again.")


def _content(path: Path) -> bytes:
    try:
        check_is_no_pointer(path)
        return path.read_bytes()
    except FileNotFoundError:
        broken = " (a link to a file that is not there)" if path.is_symlink() else ""
        raise CheckpointError(
            f"{path} is missing{broken}. CHECKPOINT must be a folder in diffusers' layout, such as "
            "Wan2.2-T2V-A14B-Diffusers; `python -m export mini` makes a small one."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER))


@dataclass(frozen=True)
class ConfigFile:
    """Values of one config file.

    Every method that reads raises CheckpointError with the file, the value and the accepted values.
    """

    path: Path
    values: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "ConfigFile":
        """Read the file. Raises CheckpointError."""
        return cls(path, read_object(path))

    def refused(self, name: str, accepted: str, hint: str = "") -> CheckpointError:
        """Return the error for a value. `hint` replaces the usual remedy, and may name the model of the file."""
        came = f"{name} is {_shown(self.values[name])}" if name in self.values else f"{name} is missing"
        remedy = hint or "Take every file from one download of a Wan2.2-T2V checkpoint."
        return CheckpointError(f"{self.path}: {came}, accepted: {accepted}. {remedy}")

    def integer(self, name: str, *, least: int = 1, most: int = MOST, default: int | None = None) -> int:
        """Return an integer from `least` to `most`."""
        value = self.values.get(name, default)
        if not _is_integer(value) or not least <= value <= most:
            raise self.refused(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str, *, above: float, below: float = math.inf) -> float:
        """Return a finite number between two limits, both excluded."""
        value = self.values.get(name)
        if not is_number(value) or not above < value < below:
            limit = f" and below {below:g}" if below < math.inf else ""
            raise self.refused(name, f"a number above {above:g}{limit}")
        return float(value)

    def choice(self, name: str, accepted: Sequence[Any], *, default: Any = None, hint: str = "") -> Any:
        """Return a value that is one of `accepted`. `True` does not count as 1."""
        value = self.values.get(name, default)
        if not any(value == one and type(value) is type(one) for one in accepted):
            raise self.refused(name, " or ".join(_shown(one) for one in accepted), hint)
        return value

    def integers(self, name: str, *, count: int) -> tuple[int, ...]:
        """Return a list of `count` integers, each at least 1."""
        value: Any = self.values.get(name)
        fits = isinstance(value, list) and len(value) == count
        if not fits or not all(_is_integer(one) and 0 < one <= MOST for one in value):
            raise self.refused(name, f"a list of {count} integers from 1 up")
        return tuple(value)

    def booleans(self, name: str, *, most: int) -> tuple[bool, ...]:
        """Return a list of 1 to `most` booleans."""
        value: Any = self.values.get(name)
        fits = isinstance(value, list) and 0 < len(value) <= most
        if not fits or not all(isinstance(one, bool) for one in value):
            raise self.refused(name, f"a list of true and false, at most {most} of them")
        return tuple(value)

    def numbers(self, name: str, *, count: int, above: float = -math.inf) -> tuple[float, ...]:
        """Return a list of `count` finite numbers, each above a limit."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != count or not all(is_number(v) and v > above for v in value):
            limit = f" above {above:g}" if above > -math.inf else ""
            raise self.refused(name, f"a list of {count} finite numbers{limit}")
        return tuple(float(one) for one in value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number. `true` is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**1000 and math.isfinite(value)  # isfinite() raises for an integer that no float can hold


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
