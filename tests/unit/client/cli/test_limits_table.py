"""The command `limits`."""

import json

import pytest
from wan_t2v_client.cli.main import main

from tests.fakes.published_limits import published
from tests.fakes.scripted_server import MADE, serving
from wan_t2v.shapes import VideoShape


def test_limits_are_printed_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(MADE) as server:
        server.limits = published(VideoShape(81, 480, 832))
        assert main(["limits", "--url", server.url]) == 0
        shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert main(["limits", "--url", server.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == server.limits
    assert "fps 16 from 1 to 120 frames per second" in shown
    assert "prompt required at most 65536 bytes" in shown
    assert "solver unipc unipc or euler" in shown
    assert "flow_shift 12.0 from 0.01 to 100.0" in shown
    assert "height x width x frames: 480x832x81" in shown
    assert "fewer than 16 steps: only with the step_profile exact" in shown


def test_an_older_server_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(MADE) as server:
        server.limits = None
        assert main(["limits", "--url", server.url]) == 2
    assert capsys.readouterr().err == (
        "wan-t2v: the server publishes no limits: it is older than this client; update it\n"
    )


def test_help_needs_no_server_and_says_where_the_ranges_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "defaults and ranges are the server's: wan-t2v limits" in capsys.readouterr().out
