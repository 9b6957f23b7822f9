"""Certificates for marking: refused where they cannot sign, and renewed while the gateway runs."""

import importlib.util
import logging
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from wan_t2v_gateway.generation import development_certificate as development
from wan_t2v_gateway.generation import marking
from wan_t2v_gateway.generation.marking import Certificate, CertificateExpired, Marker, MarkingError

from tests.unit.gateway.stepwise import mp4

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("c2pa") is None, reason="c2pa-python is not installed (gateway[marking])"
)
LONG_AGO = timedelta(days=366)  # a development certificate of then has expired


class Clock(datetime):
    """The time of then."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) - LONG_AGO


@pytest.fixture(scope="module")
def fresh() -> Certificate:
    return development._make()


@pytest.fixture(scope="module")
def old() -> Certificate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(development, "datetime", Clock)
        return development._make()


def marker_of_then(certificates: list[Certificate]) -> Marker:
    """A marker that was made when the first certificate was valid, and reads the last one from now on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marking, "datetime", Clock)
        return Marker(lambda: certificates[-1], kind="own")


def test_a_certificate_that_has_expired_is_refused_at_the_start(old: Certificate) -> None:
    with pytest.raises(CertificateExpired, match="the certificate for marking is valid only from .*: renew it"):
        Marker(lambda: old, kind="own")


def test_a_certificate_with_anothers_key_is_refused_at_the_start(fresh: Certificate, old: Certificate) -> None:
    with pytest.raises(MarkingError, match="the certificate for marking has another key"):
        Marker(lambda: Certificate(fresh.chain, old.key), kind="own")


def test_a_renewed_certificate_counts_without_a_restart(
    fresh: Certificate, old: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    files = [old]
    marker = marker_of_then(files)
    with caplog.at_level(logging.ERROR):
        assert [marker.can_sign() for _ in range(3)] == [False] * 3
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == ["no job begins until then"]
    files.append(fresh)
    assert marker.can_sign() and marker.expires_at == fresh.validity()[1]
    assert marker.sign(mp4(), title="x", model="m")


def test_a_certificate_that_was_renewed_while_a_video_was_made_signs_it(fresh: Certificate, old: Certificate) -> None:
    files = [old]
    marker = marker_of_then(files)
    files.append(fresh)
    assert marker.sign(mp4(), title="x", model="m") and marker.expires_at == fresh.validity()[1]


def test_a_renewal_that_cannot_be_used_leaves_the_certificate_before(
    fresh: Certificate, old: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    files = [fresh]
    marker = Marker(lambda: files[-1], kind="own")
    files.append(Certificate(old.chain, fresh.key))
    assert marker.can_sign() and marker.expires_at == fresh.validity()[1]
    assert "has another key; the one before is used" in caplog.text


def test_a_certificate_that_expires_while_a_video_is_made_is_told_apart_from_a_bad_file(
    fresh: Certificate, old: Certificate
) -> None:
    with pytest.raises(CertificateExpired):
        marker_of_then([old]).sign(mp4(), title="x", model="m")
    with pytest.raises(Exception, match=".+") as refusal:
        Marker(lambda: fresh, kind="own").sign(b"no MP4", title="x", model="m")
    assert not isinstance(refusal.value, MarkingError)


def test_a_development_certificate_is_made_again_before_it_expires(
    tmp_path: Path, old: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(development, "_LIFE", timedelta(days=29))
        short = development.development_certificate(tmp_path)
    kept = development.development_certificate(tmp_path)
    assert kept != short and development.development_certificate(tmp_path) == kept
    (tmp_path / "development-key.pem").write_bytes(old.key)
    development.development_certificate(tmp_path).check()
