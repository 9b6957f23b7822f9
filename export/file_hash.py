"""SHA-256 of a file, read in chunks."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Hash the file's content. Returns hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
