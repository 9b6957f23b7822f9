"""One server's folder under TMPDIR: links to Triton's inputs, so that no path has a character special to a shell.

Triton 2.51 starts each Python process with `bash -c` and does not quote the paths of stub and model. A space or a
dollar sign in the model repository's path would break every model, without an error in the log. The dynamic loader
splits LD_LIBRARY_PATH at ':' and ';', so the libraries are linked too.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import ServerError
from embedded.wheel import TritonWheel

CHECKS = Path(__file__).with_name("checks")  # a model repository of its own
# Characters special to neither shell nor loader. ASCII only: Python in Triton's stub cannot open other paths.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=,./-]*")


@dataclass(frozen=True)
class ServerFolder:
    """Links in a folder that was made under `temporary_folder()`."""

    path: Path
    backends: Path
    models: Path
    checks: Path
    libraries: tuple[Path, ...]

    @classmethod
    def link(cls, path: Path, wheel: TritonWheel, *, repository: Path) -> "ServerFolder":
        """Make the links; existing ones stay."""
        return cls(
            path,
            backends=wheel.assemble_backends(path),
            models=_link(path / "models", repository.resolve()),
            checks=_link(path / "checks", CHECKS),
            libraries=tuple(
                _link(path / f"libraries-{number}", folder) for number, folder in enumerate(wheel.library_folders())
            ),
        )


def temporary_folder() -> Path:
    """Return the folder for servers' folders. Raises ServerError if Triton could not read its files there."""
    try:
        path = tempfile.gettempdir()
    except OSError as error:
        raise ServerError(f"there is no folder for temporary files ({error.strerror}): set TMPDIR to one") from None
    if not _PLAIN.fullmatch(path):
        raise ServerError(
            f"TMPDIR={path!r} cannot be used: Triton's processes need a path of ASCII letters, digits and any of "
            "@%+=,./-_; set TMPDIR to such a folder, such as TMPDIR=/tmp"
        )
    return Path(path)


def check_repository(path: Path) -> None:
    """Raise ServerError if there is no model repository at this path."""
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise ServerError(f"REPOSITORY={str(path)!r} cannot be read ({error.strerror}); choose another") from None
    if not is_folder:
        raise ServerError(f"REPOSITORY={str(path)!r} is no folder; accepted: the model repository, model_repository/")
    if not any(path.glob("*/config.pbtxt")):
        raise ServerError(f"REPOSITORY={str(path)!r} holds no model; accepted: the model repository, model_repository/")


def _link(link: Path, target: Path) -> Path:
    if not os.path.lexists(link):
        link.symlink_to(target)
    return link
