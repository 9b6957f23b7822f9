"""Files that `make export` installs: reading, and the check against their manifest. Errors name the command to run.

`manifest.json` in a model's version folder has the SHA-256 of each file beside it. It also names the weights that the
graphs were made from to which the files belong. Standard library only.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

FILES_MANIFEST = "manifest.json"

_Parsed = TypeVar("_Parsed")


class InstalledFileError(ValueError):
    """An installed file that is damaged or differs from its manifest; the message has the command that repairs it."""


@dataclass(frozen=True)
class FilesManifest:
    """Manifest of files that were installed together.

    Attributes:
        files: SHA-256 by file name.
        graphs: per graph, the entries of its own manifest that name the weights it was made from.
    """

    files: Mapping[str, str]
    graphs: Mapping[str, Mapping[str, str]]

    def to_json(self) -> str:
        """The text of the manifest."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "FilesManifest":
        """Read the manifest in `folder`. Raises FileNotFoundError or InstalledFileError."""
        return parse_installed(folder / FILES_MANIFEST, cls._from_json)

    @classmethod
    def _from_json(cls, text: str) -> "FilesManifest":
        raw = json.loads(text)
        return cls(
            files=dict(raw["files"]), graphs={graph: dict(entry) for graph, entry in dict(raw["graphs"]).items()}
        )


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_installed(folder: Path, names: Iterable[str]) -> FilesManifest:
    """Compare files in `folder` with their manifest, and return it.

    Raises FileNotFoundError for a missing file, InstalledFileError for one that differs from the manifest.
    """
    manifest = FilesManifest.read(folder)
    for name in names:
        path = folder / name
        if not path.exists():
            raise missing(path)
        if manifest.files.get(name) != sha256_of_file(path):
            raise InstalledFileError(
                f"{path} is not the file that its manifest describes: it was changed, or copied in part. Change the "
                "checkpoint, not what is installed, and run `make export` again."
            )
    return manifest


def parse_installed(path: Path, parse: Callable[[str], _Parsed], *, command: str = "make export") -> _Parsed:
    """Read and parse an installed file. Raises FileNotFoundError, or InstalledFileError if `parse` fails."""
    try:
        return parse(read_installed(path))
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or JSON with other content
        if isinstance(error, InstalledFileError):
            raise
        raise InstalledFileError(f"{path} is damaged ({error!r}). Run `{command}` again.") from None


def read_installed(path: Path) -> str:
    """Read the text of a file that `make export` installs. Raises FileNotFoundError naming that command."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path) from None


def missing(path: Path) -> FileNotFoundError:
    """Make the error for a missing file that `make export` installs."""
    return FileNotFoundError(
        f"{path} is missing. Run `make export` (wan-mini) or `make export CHECKPOINT=<diffusers folder>` first."
    )
