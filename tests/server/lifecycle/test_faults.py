"""Faults done to real servers; `make faults` does all of them, these are one of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.server.conftest import START_LIMIT_S
from tests.stress.faults.callers import leave
from tests.stress.faults.faults import (
    fail_an_expert,
    fail_the_text_encoder,
    fill_the_disk,
    kill,
    lose_a_caller,
    overload,
    read_slowly,
)
from tests.stress.faults.hangs import unload
from tests.stress.faults.harmed_repository import (
    TEXT_CACHE_BYTES,
    HarmedRepository,
    MountRefused,
    harmed_repository,
    small_disk,
)
from tests.stress.faults.victim import Victim

DISK_BYTES = 2**18


@pytest.fixture(scope="module")
def harmed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HarmedRepository]:
    folder = tmp_path_factory.mktemp("harmed")
    try:
        with small_disk(folder / "checkpoints", DISK_BYTES) as disk:
            yield harmed_repository(repository, folder, checkpoints=disk)
    except MountRefused:
        yield harmed_repository(repository, folder, checkpoints=folder / "checkpoints")


@pytest.fixture(scope="module")
def victim(harmed: HarmedRepository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    log = tmp_path_factory.mktemp("harmed-log") / "server.log"
    options = ServerOptions(
        start_limit_s=START_LIMIT_S, repository=harmed.path, log=log, text_cache_bytes=TEXT_CACHE_BYTES
    )
    with running_server(options) as server:
        yield Victim(server)


def test_the_server_serves_again_and_every_caller_is_told(victim: Victim) -> None:
    outcomes = [kill(victim, "high_noise_expert", 1), lose_a_caller(victim), read_slowly(victim, "HTTP")]
    assert [outcome.faults for outcome in outcomes] == [()] * 3
    assert any("Unavailable" in told for told in outcomes[0].callers), "a pass of the dead expert was on its way"


@pytest.mark.nightly
def test_a_model_that_somebody_unloads_is_loaded_again_and_a_unary_caller_who_leaves_keeps_no_place(
    options: ServerOptions,
) -> None:
    with running_server(options) as server:
        victim = Victim(server)
        outcomes = [unload(victim, "prepare"), leave(victim, "HTTP unary")]
    assert [outcome.faults for outcome in outcomes] == [(), ()]


@pytest.mark.parametrize(("kind", "expert"), [("nan", "high_noise_expert"), ("error", "low_noise_expert")])
def test_an_expert_that_fails_ends_its_own_clips_alone(
    kind: str, expert: str, victim: Victim, harmed: HarmedRepository
) -> None:
    outcome = fail_an_expert(victim, harmed, kind, expert=expert)
    assert outcome.faults == ()
    assert all(told.startswith("ServerFault") for told in outcome.callers)


def test_a_cached_failure_of_the_text_encoder_ends_no_later_request(victim: Victim, harmed: HarmedRepository) -> None:
    assert fail_the_text_encoder(victim, harmed).faults == ()


def test_fifty_at_once_against_four_places(victim: Victim) -> None:
    assert overload(victim, 50).faults == ()


def test_a_full_disk_costs_the_checkpoint_and_not_the_video(victim: Victim, harmed: HarmedRepository) -> None:
    if not harmed.checkpoints.is_mount():
        pytest.skip("this user may not mount a file system")
    assert fill_the_disk(victim, harmed).faults == ()


@pytest.mark.parametrize(
    ("kind", "told"), [("open files", "open files are high_noise_expert"), ("memory", "memory of")]
)
def test_what_leaks_is_found(kind: str, told: str, victim: Victim, harmed: HarmedRepository) -> None:
    """Last, for it stays: an expert that keeps a file or 4 MiB open at each pass."""
    with harmed.failing(kind, latents=(4, 6), below=1000.0):
        for _ in range(6):
            victim.asked("stream", {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5})
    assert any(told in found for found in victim.left_behind(settled_s=2.0))
