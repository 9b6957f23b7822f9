"""Faults during jobs: kills of the gateway at every stage, of the server and of the database; hangs; a full disk.

After each fault the job's id must end `completed`, with the bytes of an undisturbed run and one webhook id, and nothing
may be left in the queue or in the store.
"""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from wan_t2v_client import Connection, TextToVideo
from wan_t2v_gateway.database.local_postgres import local_postgres

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.stress.faults.gateway.process import GatewayProcess, Place, running_gateway, stopped_database, until
from tests.stress.faults.gateway.receiver import Receiver, running_receiver
from tests.stress.faults.harmed_repository import HarmedRepository, MountRefused, filled, harmed_repository, small_disk
from tests.stress.faults.victim import LIMIT_S, SMALL, Outcome
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory

STEPS = 6
JOB = {**SMALL, "height": 32, "width": 32, "num_inference_steps": STEPS}
LATENTS = (4, 4)
AWAY_S = 10.0  # how long the database is unavailable
PATIENCE_S = 2.0  # meanwhile HTTP must answer 503 within this time
STORE_BYTES = 2**22
FILES = {"video.mp4", "thumbnail.png", "spritesheet.png"}
HOLDS = {  # stage: the last finished step when the next one, or the decoder, is held
    "denoising in the high-noise expert": 1,
    "denoising in the low-noise expert": STEPS - 1,
    "decoding": STEPS,
}


@dataclass(frozen=True)
class Front:
    """Environment of a gateway, and the digest of the video from an undisturbed run."""

    server: Server
    harmed: HarmedRepository
    place: Place
    postgres: Path
    receiver: Receiver
    sha256: str
    timesteps: tuple[float, ...]

    def hold(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Hold the generation of a job after this step."""
        return self.harmed.failing("hold", latents=LATENTS, below=self.timesteps[step - 1])


def faults_of_the_gateway(repository: Path, folder: Path, not_tried: list[str]) -> Iterator[Outcome]:
    """Inject one fault after the other. Faults that are impossible here are added to `not_tried`."""
    with contextlib.ExitStack() as stack:
        front = _front(repository, folder, stack)
        yield killed_while_queued(front)
        for stage, step in HOLDS.items():
            yield killed_while(front, stage, step)
        yield killed_while_storing(front)
        yield killed_before_the_webhook(front)
        yield killed_after_the_webhook(front)
        yield server_killed(front)
        yield database_hangs(front)
        yield database_killed(front)
        try:
            yield full_store(front, folder / "small-store")
        except MountRefused as error:
            not_tried.append(f"a full disk for videos: {error}")


def _front(repository: Path, folder: Path, stack: contextlib.ExitStack) -> Front:
    harmed = harmed_repository(repository, folder / "gateway", checkpoints=folder / "gateway-checkpoints")
    options = ServerOptions(repository=harmed.path, log=folder / "gateway-server.log", start_limit_s=600)
    server = stack.enter_context(running_server(options))
    postgres = folder / "gateway-database"
    folder.chmod(0o755)  # as root, Postgres runs as user nobody, who needs access
    database_url = stack.enter_context(local_postgres(postgres))
    receiver = stack.enter_context(running_receiver())
    place = Place(server.grpc_url, database_url, folder / "gateway-data", folder / "gateway.log")
    with TextToVideo(Connection(server.grpc_url)) as client:
        undisturbed = client.generate("a red ball", **JOB)
    assert undisturbed.video is not None
    digest = hashlib.sha256(undisturbed.video).hexdigest()
    return Front(
        server, harmed, place, postgres / "postgres", receiver, digest, tuple(undisturbed.metadata["timesteps"])
    )


def killed_while_queued(front: Front) -> Outcome:
    """Kill the gateway that accepted the job, which has no worker."""
    with running_gateway(front.place, workers=0) as gateway:
        video_id = gateway.post(front.receiver.url, **JOB)
        gateway.kill()
    return _goes_on(front, "kill -9 of the gateway while the job is queued", video_id)


def killed_while(front: Front, stage: str, step: int) -> Outcome:
    """Kill the gateway after a step, while the server runs the next stage."""
    with running_gateway(front.place) as gateway, front.hold(step):
        video_id = gateway.post(front.receiver.url, **JOB)
        reached = gateway.until_step(video_id, step)
        gateway.kill()
    return _goes_on(front, f"kill -9 of the gateway while {stage}", video_id, _not(reached, stage))


def killed_while_storing(front: Front) -> Outcome:
    """Kill the gateway as soon as the first file exists, around the time at which the record is updated."""
    with running_gateway(front.place) as gateway:
        video_id = gateway.post(front.receiver.url, **JOB)
        files = front.place.data / "files" / video_id
        reached = until(files.exists)
        gateway.kill()
    return _goes_on(front, "kill -9 of the gateway while it stores", video_id, _not(reached, "storing"))


def killed_before_the_webhook(front: Front) -> Outcome:
    """Kill the gateway before the receiver answers the webhook. The webhook must be sent again."""
    front.receiver.answering.clear()
    try:
        with running_gateway(front.place) as gateway:
            video_id = gateway.post(front.receiver.url, **JOB)
            reached = until(lambda: front.receiver.of(video_id))
            gateway.kill()
    finally:
        front.receiver.answering.set()
    return _goes_on(front, "kill -9 of the gateway before the webhook is answered", video_id, _not(reached, "webhook"))


def killed_after_the_webhook(front: Front) -> Outcome:
    """Kill the gateway after the webhook was answered. It may be sent again, with the same id."""
    with running_gateway(front.place) as gateway:
        video_id = gateway.post(front.receiver.url, **JOB)
        reached = until(lambda: front.receiver.was_answered(video_id))
        gateway.kill()
    return _goes_on(front, "kill -9 of the gateway after the webhook was answered", video_id, _not(reached, "webhook"))


def server_killed(front: Front) -> Outcome:
    """Kill tritonserver during a generation. Its supervisor restarts it."""
    with running_gateway(front.place) as gateway:
        with front.hold(STEPS // 2):
            video_id = gateway.post(front.receiver.url, **JOB)
            reached = gateway.until_step(video_id, STEPS // 2)
            os.kill(front.server.pid, signal.SIGKILL)
        began = time.monotonic()
        return _ended(
            front, "kill -9 of tritonserver", video_id, gateway, since=began, faults=_not(reached, "the middle")
        )


def database_hangs(front: Front) -> Outcome:
    """Stop all Postgres processes for ten seconds during a job. HTTP must answer 503 promptly."""
    return _database_away(front, "Postgres hangs for ten seconds", lambda: stopped_database(front.postgres))


def database_killed(front: Front) -> Outcome:
    """Kill Postgres during a job, and start it again ten seconds later."""

    @contextlib.contextmanager
    def killed() -> Iterator[None]:
        from wan_t2v_gateway.database.local_postgres import _programs, _start

        pid, _, _, port = (front.postgres / "postmaster.pid").read_text().split("\n")[:4]
        os.kill(int(pid), signal.SIGQUIT)  # immediate shutdown: no checkpoint, no message to clients
        until(lambda: not (front.postgres / "postmaster.pid").exists())
        try:
            yield
        finally:
            _start(_programs(front.postgres.parent), front.postgres, int(port), options="")

    return _database_away(front, "Postgres dies and comes back after ten seconds", killed)


def _database_away(front: Front, name: str, away: Callable[[], contextlib.AbstractContextManager[None]]) -> Outcome:
    faults: list[str] = []
    with running_gateway(front.place) as gateway:
        with front.hold(STEPS // 2):
            video_id = gateway.post(front.receiver.url, **JOB)
            faults += _not(gateway.until_step(video_id, STEPS // 2), "the middle")
            with away():
                ends = time.monotonic() + AWAY_S
                while time.monotonic() < ends:
                    began = time.monotonic()
                    status = gateway.http.get(f"/v1/videos/{video_id}").status_code
                    seconds = time.monotonic() - began
                    if status != 503 or seconds > PATIENCE_S + 1:
                        faults.append(f"HTTP answered {status} after {seconds:.1f} s")
                    time.sleep(0.5)
        began = time.monotonic()
        return _ended(front, name, video_id, gateway, since=began, faults=list(dict.fromkeys(faults)))


def full_store(front: Front, folder: Path) -> Outcome:
    """Fill the disk for videos. The job must wait until there is space. Raises MountRefused."""
    with small_disk(folder, STORE_BYTES):
        small = replace(front, place=replace(front.place, data=folder))
        with running_gateway(small.place) as gateway:
            with filled(folder):
                video_id = gateway.post(front.receiver.url, **JOB)
                waits = until(lambda: gateway.video(video_id).get("attempts", 0) >= 2)
            began = time.monotonic()
            name = "the disk for videos is full"
            return _ended(small, name, video_id, gateway, since=began, faults=_not(waits, "a second attempt"))


def _goes_on(front: Front, name: str, video_id: str, faults: tuple[str, ...] | list[str] = ()) -> Outcome:
    """Start another gateway, and check that the job finishes there."""
    began = time.monotonic()
    with running_gateway(front.place) as gateway:
        return _ended(front, name, video_id, gateway, since=began, faults=list(faults))


def _ended(
    front: Front, name: str, video_id: str, gateway: GatewayProcess, *, since: float, faults: list[str]
) -> Outcome:
    record = gateway.until_ended(video_id)
    seconds = round(time.monotonic() - since, 1)
    faults = [*faults, *_not_as_undisturbed(front, gateway, record), *_left_behind(front, video_id)]
    told = f"{record.get('status')} at attempt {record.get('attempts')}"
    return Outcome(name, (told,), seconds, tuple(faults))


def _not_as_undisturbed(front: Front, gateway: GatewayProcess, record: dict[str, object]) -> Iterator[str]:
    if record.get("status") != "completed":
        yield f"it ended as {record}"
        return
    content = gateway.http.get(f"/v1/videos/{record['id']}/content").content
    if hashlib.sha256(content).hexdigest() != front.sha256:
        yield "other bytes than an undisturbed run's"


def _left_behind(front: Front, video_id: str) -> Iterator[str]:
    """Yield leftovers: undelivered webhooks, queued jobs, incomplete files, slots held at the server."""
    if not until(lambda: front.receiver.was_answered(video_id)):
        yield "no webhook"
    told = {(delivery.webhook_id, delivery.kind) for delivery in front.receiver.of(video_id)}
    if len(told) != 1 or {kind for _, kind in told} != {"video.completed"}:
        yield f"webhooks {sorted(told)}"
    if not until(lambda: _queued(front) == 0):
        yield f"{_queued(front)} jobs are still in the queue"
    files = [path.name for path in (front.place.data / "files" / video_id).rglob("*") if path.is_file()]
    if sorted(files) != sorted(FILES):  # of one attempt
        yield f"files {sorted(files)}"
    run = RunDirectory(front.server.run_directory)
    if not until(lambda: not (load_of(run).in_flight or load_of(run).queued)):
        yield f"places were not given back: {load_of(run)}"


def _queued(front: Front) -> int:
    with psycopg.connect(front.place.database_url) as connection:
        row = connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')").fetchone()
    return int(row[0]) if row else 0


def _not(reached: bool, stage: str) -> list[str]:
    return [] if reached else [f"{stage} was not reached in {LIMIT_S:g} s"]
