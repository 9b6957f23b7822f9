"""How many steps a request's checkpoint has, for an estimate: read without torch, and without the tensors."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.serving.resume.idempotency import KEY, RequestKey

SUFFIX = ".checkpoint"
BELONGS_TO = "belongs_to"  # the array that says which generation a checkpoint belongs to
_FOLDER_FILE = "checkpoint_folder.json"


def checkpoint_path(folder: Path, key: str, caller: str = "") -> Path:
    """Return the path of a caller's checkpoint. The name does not reveal caller or key."""
    name = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
    return folder / f"{name}{SUFFIX}"


def publish_folder(run: RunDirectory, folder: Path | None) -> None:
    """Publish the checkpoint folder, or that there is none, to the models that keep no checkpoints themselves."""
    run.write_json(_FOLDER_FILE, {"folder": None if folder is None else str(folder)})


def check_key(run: RunDirectory, key: RequestKey | None) -> None:
    """Raise InvalidField for a key if it is published that this server keeps no checkpoints."""
    published = run.read_json(_FOLDER_FILE)
    if key is not None and published is not None and published.get("folder") is None:
        raise key_without_folder(key)


def key_without_folder(key: RequestKey) -> InvalidField:
    """Make the error of a key at a server that keeps no checkpoints."""
    return InvalidField(KEY, key.key, "none: this server keeps no checkpoints (parameter checkpoint_folder)")


def kept_steps(run: RunDirectory, key: RequestKey | None) -> int:
    """Return how many steps a key's checkpoint has in the published folder; 0 without a key or a checkpoint."""
    folder = (run.read_json(_FOLDER_FILE) or {}).get("folder")
    if key is None or not isinstance(folder, str):
        return 0
    return read_steps_done(checkpoint_path(Path(folder), key.key, key.caller))


def read_steps_done(path: Path) -> int:
    """Read how many steps a checkpoint has, without checking its digest.

    Returns 0 if there is no such file, or if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as file:  # finds its content behind the first lines
            belonging = np.load(io.BytesIO(file.read(f"{BELONGS_TO}.npy")), allow_pickle=False)
        return max(0, int(json.loads(bytes(belonging))["steps_done"]))
    except Exception:  # a damaged file can raise nearly anything; the one who reads it whole logs and removes it
        return 0
