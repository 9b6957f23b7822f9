"""SHA-256 of a file, read in pieces."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Hash of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
