"""The files in a gateway's store."""

import os
from pathlib import Path


def stored_files(data: Path) -> list[str]:
    """By their names in the store. Folders may vanish meanwhile, which `os.walk` does not mind."""
    store = data / "files"
    found = [Path(folder, name) for folder, _, names in os.walk(store) for name in names]
    return sorted(str(path.relative_to(store)) for path in found)
