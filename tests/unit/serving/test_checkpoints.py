"""Generations kept on disk: whole, of one request and one build, worked on by one process, and cleaned up."""

import errno
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wan_t2v.serving.checkpoints import Checkpoints, Generation, Kept, Limits
from wan_t2v.serving.keys import AlreadyRunning, KeyOfAnotherRequest

ROOMY = Limits(age_s=3600.0, total_bytes=10**9)
KEY, CALLER = "order-17", "alice"
FIRST = Generation({"prompt": "a ball", "seed": 7, "guidance_scale": 4.0}, {"high": "ab", "low": "cd"})


def kept(steps_done: int = 3) -> Kept:
    random = torch.Generator().manual_seed(steps_done)
    latents = torch.randn(1, 16, 2, 4, 4, generator=random)
    return Kept(steps_done, latents, {"counts": torch.tensor([3, 2, 2]), "last_sample": latents * 0.5})


def test_what_was_kept_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ROOMY).held(KEY, CALLER) as checkpoint:
        assert checkpoint.read(FIRST) is None
        checkpoint.write(FIRST, kept(1))
        checkpoint.write(FIRST, kept(3))
    with Checkpoints(tmp_path, ROOMY).held(KEY, CALLER) as checkpoint:
        found = checkpoint.read(FIRST)
    assert found is not None and found.steps_done == 3
    assert torch.equal(found.latents, kept().latents)
    assert found.solver.keys() == kept().solver.keys()
    assert all(torch.equal(found.solver[name], tensor) for name, tensor in kept().solver.items())


def test_another_caller_with_the_same_key_has_a_checkpoint_of_his_own_and_names_tell_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    with checkpoints.held(KEY, CALLER) as mine, checkpoints.held(KEY, "bob") as his:
        mine.write(FIRST, kept())
        assert his.read(FIRST) is None
    assert not [path for path in tmp_path.iterdir() if "alice" in path.name or "order" in path.name]


def test_a_key_with_other_fields_is_refused_and_another_build_starts_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    with checkpoints.held(KEY, CALLER) as checkpoint:
        checkpoint.write(FIRST, kept())
    refused = pytest.raises(KeyOfAnotherRequest, match="was used for a request with other fields")
    with checkpoints.held(KEY, CALLER) as checkpoint, refused:
        checkpoint.read(replace(FIRST, fields={**FIRST.fields, "seed": 8}))
    with checkpoints.held(KEY, CALLER) as checkpoint:
        assert checkpoint.read(replace(FIRST, graphs={"high": "xx", "low": "cd"})) is None
        assert checkpoint.read(FIRST) is not None


def test_a_duplicate_is_told_while_the_first_works_and_not_after(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ROOMY)
    refused = pytest.raises(AlreadyRunning, match="idempotency_key 'order-17' is being worked on")
    with checkpoints.held(KEY, CALLER), refused, Checkpoints(tmp_path, ROOMY).held(KEY, CALLER):
        pytest.fail("two work on one generation")
    with checkpoints.held(KEY, CALLER):
        pass


def hold(folder: Path, ready: Any) -> None:
    with Checkpoints(folder, ROOMY).held(KEY, CALLER) as checkpoint:
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
        with pytest.raises(AlreadyRunning), Checkpoints(tmp_path, ROOMY).held(KEY, CALLER):
            pytest.fail("two work on one generation")
    finally:
        process.kill()
        process.join()
    with Checkpoints(tmp_path, ROOMY).held(KEY, CALLER) as checkpoint:
        found = checkpoint.read(FIRST)
    assert found is not None and found.steps_done == 3


def test_a_broken_file_counts_as_none_and_a_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path, ROOMY).held(KEY, CALLER) as checkpoint:
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
        with checkpoints.held(str(index), CALLER) as checkpoint:
            checkpoint.write(FIRST, kept())
            os.utime(checkpoint.path, (written + index, written + index))
    size = checkpoint.path.stat().st_size
    with Checkpoints(tmp_path, ROOMY).held("0", CALLER) as working:
        two = Checkpoints(tmp_path, Limits(age_s=100.0, total_bytes=2 * size))
        removed = two.clean(now=written + 10.0)
        assert len(removed) == 1 and working.path.exists(), "of the two oldest one is in work"
        assert len(two.clean(now=written + 1000.0)) == 2 and working.path.exists()
    assert len(two.clean(now=written + 1000.0)) == 1
    assert not list(tmp_path.iterdir())
