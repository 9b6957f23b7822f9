"""The command `generate`: what is refused, before a file or a folder is made and anything is sent."""

from pathlib import Path

import pytest
from wan_t2v_client.cli.main import main

from tests.fakes.client_process import run_refused
from tests.fakes.scripted_server import MADE, serving

WITHOUT_EFFECT = {
    "--previews": ["--unary", "--previews", "pictures"],
    "--preview-every": ["--unary", "--preview-every", "5"],
    "--idle-limit-s": ["--unary", "--idle-limit-s", "30"],
    "--retry-after-progress": ["--unary", "--retry-after-progress"],
    "--preview-every: no effect without --previews": ["--preview-every", "3"],
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *[(options, says) for says, options in WITHOUT_EFFECT.items()],
        (["--out", "new/"], "argument --out: 'new/' is no name of a file"),
        (["--out", "new/."], "argument --out: 'new/.' is no name of a file"),
        (["--out", ""], "argument --out: '' is no name of a file"),
        (["--out", "new/x.mp4", "--tls", "--ca-file", "missing.pem"], "missing.pem is not a file"),
        (["--out", "new/x.mp4", "--url", "http://x"], "url: got 'http://x'"),
        (["--out", "new/x.mp4", "--seed", str(2**63)], "seed: got 9223372036854775808, which cannot be sent"),
    ],
)
def test_refused_arguments_send_nothing_and_leave_nothing_behind(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with serving(MADE) as server:
        assert says in run_refused(capsys, "generate", "x", "--url", server.url, *options)
        assert server.requests == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(("options", "every"), [([], 5), (["--preview-every", "3"], 3)])
def test_previews_come_as_often_as_asked(options: list[str], every: int) -> None:
    with serving(MADE) as server:
        assert main(["generate", "x", "--url", server.url, "--previews", "pictures", *options]) == 0
        (request,) = server.requests
    names = [tensor.name for tensor in request.inputs]
    assert int.from_bytes(request.raw_input_contents[names.index("preview_every")], "little") == every


def test_the_unary_endpoint_takes_the_other_options() -> None:
    with serving(MADE) as server:
        options = ["--unary", "--attempts", "2", "--deadline-s", "600", "--idempotency-key", "k", "--seed", "7"]
        assert main(["generate", "x", "--url", server.url, *options]) == 0
        assert len(server.requests) == 1
