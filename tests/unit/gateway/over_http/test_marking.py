"""Finished files are signed as made by a model if the gateway is told to."""

import hashlib
import importlib.util
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from wan_t2v_gateway.__main__ import main
from wan_t2v_gateway.generation.marking import CertificateExpired, Marker
from wan_t2v_gateway.storage.store import StorageUnavailable, Store

from tests.fakes.scripted_server import Step, Video, serving
from tests.unit.gateway.stepwise import mp4
from tests.waiting import wait_until

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("c2pa") is None, reason="c2pa-python is not installed (gateway[marking])"
)
Start = Callable[..., Any]


def pictures(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@needs_library
def test_the_manifest_says_who_made_the_file_and_the_pictures_are_the_servers(start: Start, tmp_path: Path) -> None:
    import c2pa

    made = mp4()
    with serving((Step(1), Video(made))) as server:
        gateway = start(server_url=server.url, mark="development")
        video = gateway.until(gateway.post(), "completed", "failed")
    content = gateway.http.get(f"/v1/videos/{video['id']}/content").content
    with c2pa.Reader("video/mp4", io.BytesIO(content)) as reader:
        told = json.loads(reader.json())
    manifest = told["manifests"][told["active_manifest"]]
    assert told["validation_state"] == "Valid"  # and untrusted: nobody knows its authority
    assert "signingCredential.untrusted" in json.dumps(told["validation_results"])
    assert "trainedAlgorithmicMedia" in json.dumps(manifest["assertions"])
    assert "development certificate" in manifest["claim_generator_info"][0]["name"]
    assert manifest["title"] == f"{video['id']}.mp4"
    assert pictures(content) == pictures(made)
    assert video["sha256"] == hashlib.sha256(content).hexdigest()
    assert video["marked"] == {"certificate": "development", "unsigned_sha256": hashlib.sha256(made).hexdigest()}
    assert (tmp_path / "marking/development-key.pem").stat().st_mode & 0o777 == 0o600


@needs_library
def test_a_changed_file_is_found_out(tmp_path: Path) -> None:
    import c2pa
    from wan_t2v_gateway.generation.development_certificate import development_certificate

    certificate = development_certificate(tmp_path)
    assert development_certificate(tmp_path) == certificate  # kept
    signed = bytearray(Marker(lambda: certificate, kind="development").sign(mp4(), title="x", model="m"))
    signed[-20] ^= 1
    with c2pa.Reader("video/mp4", io.BytesIO(bytes(signed))) as reader:
        assert json.loads(reader.json())["validation_state"] == "Invalid"


@needs_library
def test_each_attempt_signs_a_file_of_its_own_and_the_record_is_of_the_last(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the second attempt made another video than the first."""
    signed: list[bytes] = []
    sign, put, refusals = Marker.sign, Store.put, iter([True])

    def counted(self: Marker, *arguments: Any, **named: Any) -> bytes:
        signed.append(sign(self, *arguments, **named))
        return signed[-1]

    async def full_once(self: Store, folder: str, variant: str, data: bytes) -> None:
        if variant == "thumbnail" and next(refusals, False):
            raise StorageUnavailable("full")
        await put(self, folder, variant, data)

    monkeypatch.setattr(Marker, "sign", counted)
    monkeypatch.setattr(Store, "put", full_once)
    with serving((Step(1), Video(mp4()))) as server:
        gateway = start(server_url=server.url, mark="development", retry_s=0.05, poll_s=0.05)
        video = gateway.until(gateway.post(), "completed")
    assert video["attempts"] == 2 and len(signed) == 2
    content = gateway.http.get(f"/v1/videos/{video['id']}/content").content
    assert content == signed[1] and video["sha256"] == hashlib.sha256(content).hexdigest()
    files = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"2"}


@needs_library
def test_no_job_begins_while_nothing_can_be_signed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    renewed = threading.Event()

    def can_sign(self: Marker) -> bool:
        asked.append(renewed.is_set())
        return asked[-1]

    monkeypatch.setattr(Marker, "can_sign", can_sign)
    with serving((Step(1), Video(mp4()))) as server:
        gateway = start(server_url=server.url, mark="development", poll_s=0.05)
        video_id = gateway.post()
        questions = len(asked)
        wait_until(lambda: len(asked) > questions + 1)
        assert gateway.video(video_id)["status"] == "queued" and not server.requests
        renewed.set()
        assert gateway.until(video_id, "completed", "failed")["status"] == "completed"


@needs_library
def test_a_job_whose_certificate_expires_while_it_runs_goes_back_to_the_queue(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, expired = Marker.sign, iter([True])

    def expired_once(self: Marker, *arguments: Any, **named: Any) -> bytes:
        if next(expired, False):
            raise CertificateExpired("expired")
        return sign(self, *arguments, **named)

    monkeypatch.setattr(Marker, "sign", expired_once)
    with serving((Step(1), Video(mp4()))) as server:
        gateway = start(server_url=server.url, mark="development", retry_s=0.05, poll_s=0.05)
        video = gateway.until(gateway.post(), "completed", "failed")
    assert (video["status"], video["attempts"]) == ("completed", 2)


@needs_library
@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_that_signs_tells_when_its_certificate_expires(start: Start, tmp_path: Path, workers: int) -> None:
    from wan_t2v_gateway.generation.development_certificate import development_certificate

    told = start(mark="development", workers=workers).http.get("/metrics").text
    ends = development_certificate(tmp_path / "marking").validity()[1].timestamp()
    assert (f"\nwan_t2v_gateway_certificate_expiration_timestamp_seconds {ends}\n" in told) == bool(workers)


def test_what_nobody_foresaw_fails_the_job_and_is_not_tried_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Store, folder: str, variant: str, data: bytes) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(Store, "put", broken)
    with serving((Step(1), Video(mp4()))) as server:
        gateway = start(server_url=server.url)
        error = gateway.until(gateway.post(), "failed")["error"]
    assert error == {"code": "server_error", "message": "the gateway failed; its log has the reason"}


def test_files_stay_as_the_server_made_them_by_default(start: Start) -> None:
    made = mp4()
    with serving((Step(1), Video(made))) as server:
        gateway = start(server_url=server.url)
        video = gateway.until(gateway.post(), "completed")
    assert gateway.http.get(f"/v1/videos/{video['id']}/content").content == made and video["marked"] is None


@needs_library
@pytest.mark.parametrize("key", [None, "no key"])
def test_a_certificate_that_cannot_be_used_ends_the_start(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str | None
) -> None:
    if key is not None:
        for name in ("chain.pem", "key.pem"):
            (tmp_path / name).write_text(key)
    assert main(["--database-url", database_url, "--data", str(tmp_path), "--mark", str(tmp_path)]) == 1
    assert "the certificate for marking" in capsys.readouterr().err
