"""Generations kept on disk: whole, of one request and one build, worked on by one process, and cleaned up."""

import errno
import hashlib
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wan_t2v.serving.errors import AlreadyRunning, KeyOfAnotherRequest
from wan_t2v.serving.resume.checkpoint_file import (
    FORMAT,
    CheckpointFile,
    DamagedCheckpoint,
    GenerationIdentity,
    SavedState,
)
from wan_t2v.serving.resume.checkpoint_index import FILE
from wan_t2v.serving.resume.checkpoint_store import Checkpoints, Limits

ROOMY = Limits(age_s=3600.0, total_bytes=10**9)
KEY, CALLER = "order-17", "alice"
FIRST = GenerationIdentity({"prompt": "a ball", "seed": 7, "guidance_scale": 4.0}, {"high": "ab", "low": "cd"})


def kept(steps_done: int = 3) -> SavedState:
    random = torch.Generator().manual_seed(steps_done)
    latents = torch.randn(1, 16, 2, 4, 4, generator=random)
    solver = {"counts": torch.tensor([3, 2, 2]), "last_sample": latents * 0.5}
    return SavedState(steps_done, latents, solver, {"passes": torch.tensor([2] * steps_done)})


def test_what_was_kept_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        assert checkpoint.read(FIRST) is None
        checkpoint.write(FIRST, kept(1))
        checkpoint.write(FIRST, kept(3))
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        found = checkpoint.read(FIRST)
    assert found is not None and found.steps_done == 3
    assert torch.equal(found.latents, kept().latents)
    assert found.solver.keys() == kept().solver.keys()
    assert all(torch.equal(found.solver[name], tensor) for name, tensor in kept().solver.items())


def test_another_caller_with_the_same_key_has_a_checkpoint_of_his_own_and_names_tell_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    with checkpoints.lock(KEY, CALLER) as mine, checkpoints.lock(KEY, "bob") as his:
        mine.write(FIRST, kept())
        assert his.read(FIRST) is None
    assert not [path for path in tmp_path.iterdir() if "alice" in path.name or "order" in path.name]


def test_a_key_with_other_fields_is_refused_and_another_build_starts_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    with checkpoints.lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
    refused = pytest.raises(KeyOfAnotherRequest, match="was used for a request with other fields")
    with checkpoints.lock(KEY, CALLER) as checkpoint, refused:
        checkpoint.read(replace(FIRST, fields={**FIRST.fields, "seed": 8}))
    with checkpoints.lock(KEY, CALLER) as checkpoint:
        assert checkpoint.read(replace(FIRST, graphs={"high": "xx", "low": "cd"})) is None
        assert checkpoint.read(FIRST) is not None


def test_a_duplicate_is_told_while_the_first_works_and_not_after(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    refused = pytest.raises(AlreadyRunning, match="idempotency_key 'order-17' is being worked on")
    with checkpoints.lock(KEY, CALLER), refused, Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER):
        pytest.fail("two work on one generation")
    with checkpoints.lock(KEY, CALLER):
        pass


def hold(folder: Path, ready: Any) -> None:
    with Checkpoints(folder, ROOMY).lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
        ready.set()
        signal.pause()


def test_a_killed_process_frees_its_generation(tmp_path: Path) -> None:
    spawned = multiprocessing.get_context("spawn")
    ready = spawned.Event()
    process = spawned.Process(target=hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(AlreadyRunning), Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER):
            pytest.fail("two work on one generation")
    finally:
        process.kill()
        process.join()
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        found = checkpoint.read(FIRST)
    assert found is not None and found.steps_done == 3


def test_a_broken_file_counts_as_none_and_a_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept(2))

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                checkpoint.write(FIRST, kept(3))
        found = checkpoint.read(FIRST)
        assert found is not None and found.steps_done == 2
        assert not list(tmp_path.glob("*.partial"))
        checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-40])
        assert checkpoint.read(FIRST) is None


def test_old_ones_and_too_many_are_removed_but_never_one_in_work(tmp_path: Path) -> None:
    checkpoints, written = Checkpoints(tmp_path, ROOMY), time.time() - 100.0
    for index in range(4):
        with checkpoints.lock(str(index), CALLER) as checkpoint:
            checkpoint.write(FIRST, kept())
            os.utime(checkpoint.path, (written + index, written + index))
    size = checkpoint.path.stat().st_size
    with Checkpoints(tmp_path, ROOMY).lock("0", CALLER) as working:
        two = Checkpoints(tmp_path, Limits(age_s=100.0, total_bytes=2 * size))
        removed = two.clean(now=written + 10.0)
        assert len(removed) == 0 and working.path.exists(), "the oldest is in work; one of three others was too much"
        assert len(two.clean(now=written + 1000.0)) == 2 and working.path.exists()
    assert len(two.clean(now=written + 1000.0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_lock_is_there_only_while_somebody_works(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    for index in range(20):
        with checkpoints.lock(str(index)):
            assert len(list(tmp_path.glob("*.lock"))) == 1
    assert not list(tmp_path.glob("*.lock"))


def test_what_killed_processes_left_goes_at_the_next_start(tmp_path: Path) -> None:
    names = [f"{'a' * 64}.lock", f"{'b' * 64}.partial", f"{'c' * 64}.npz"]
    for name in names:
        (tmp_path / name).write_bytes(b"left")
    os.utime(tmp_path / names[2], (0, 0))
    Checkpoints(tmp_path, ROOMY)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_request_lists_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty thousand files took 6.4 s, in the thread that takes requests in."""
    checkpoints = Checkpoints(tmp_path, ROOMY)

    def refuse(*_: object) -> None:
        pytest.fail("listed")

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    with checkpoints.lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
        assert checkpoint.read(FIRST) is not None


def test_many_write_and_clean_at_once(tmp_path: Path) -> None:
    """A file that another removes meanwhile is nobody's failure."""
    one = len(CheckpointFile(FIRST.as_json(), kept()).to_bytes())
    crowd = [Checkpoints(tmp_path, Limits(age_s=3600.0, total_bytes=3 * one)) for _ in range(2)]

    def work(index: int) -> None:
        with crowd[index % 2].lock(str(index)) as checkpoint:
            checkpoint.write(FIRST, kept())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(120)))
    crowd[0].clean()
    assert len(list(tmp_path.glob("*.checkpoint"))) == 3


def test_any_damage_begins_the_generation_anew_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    whole = CheckpointFile(FIRST.as_json(), kept()).to_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    cut = [whole[:length] for length in (0, 1, len(FORMAT), len(FORMAT) + 66, len(whole) - 1)]
    foreign = [b"PK\x03\x04" + whole, whole + b"x", b"\n\n", os.urandom(100)]
    for damaged in (*flipped, *cut, *foreign):
        with checkpoints.lock(KEY, CALLER) as checkpoint:
            checkpoint.path.write_bytes(damaged)
            caplog.clear()
            assert checkpoint.read(FIRST) is None
            assert "cannot be read, the generation begins anew" in caplog.text
            assert not checkpoint.path.exists()


def test_content_of_another_version_is_damage_too() -> None:
    for content in (b"no zip", b""):
        whole = b"\n".join((FORMAT, hashlib.sha256(content).hexdigest().encode(), content))
        with pytest.raises(DamagedCheckpoint):
            CheckpointFile.from_bytes(whole)


def test_a_damaged_index_is_made_again_and_one_that_cannot_be_used_costs_no_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path, ROOMY).lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
    (tmp_path / FILE).write_bytes(os.urandom(4096))
    none = Checkpoints(tmp_path, Limits(age_s=3600.0, total_bytes=0))
    assert "is made anew" in caplog.text
    assert not list(tmp_path.glob("*.checkpoint")), "it was listed, and too much"
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with none.lock(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
        assert checkpoint.read(FIRST) is not None
    assert "cannot be used" in caplog.text
