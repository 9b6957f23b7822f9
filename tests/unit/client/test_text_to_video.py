"""The blocking client: errors, and what is refused before anything is sent."""

import ast
from pathlib import Path

import pytest
import wan_t2v_client
from tritonclient.utils import InferenceServerException
from wan_t2v_client import Connection, DeadlineExceeded, RequestRefused, ServerFault, TextToVideo, Unavailable
from wan_t2v_client.cli.main import main
from wan_t2v_client.errors import AlreadyRunning, client_error


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("StatusCode.INVALID_ARGUMENT", "in ensemble 'text_to_video', height: got 100", RequestRefused),
        ("StatusCode.INTERNAL", "in ensemble 'text_to_video', Stub process 'prepare_0_0' is not healthy.", Unavailable),
        ("StatusCode.INTERNAL", "something\nbroke", ServerFault),
        (None, "Request for unknown model: 'text_to_video_stream' has no available versions", Unavailable),
        (None, "1 generations are under way [UNAVAILABLE]", Unavailable),
        (None, "height: got 100 [INVALID_ARGUMENT field=height]", RequestRefused),
        (None, "a request with idempotency_key 'a' is being worked on [ALREADY_EXISTS]", AlreadyRunning),
        (None, "Server is stopping, scheduler for model has stopped accepting new inference requests", Unavailable),
        (None, "ZeroDivisionError: oops [INTERNAL]", ServerFault),
        (None, "prepare: Stub process 'prepare_0_0' is not healthy. [INTERNAL]", Unavailable),
        (None, "solver: got 'it is not ready'; accepted: unipc. [INVALID_ARGUMENT field=solver]", RequestRefused),
        (None, "the key 'Server not ready' is being worked on [ALREADY_EXISTS]", AlreadyRunning),
        ("StatusCode.INTERNAL", "Failed to obtain the health mutex.", Unavailable),
        (None, "unexpected inference input 'colour' for model 'text_to_video_stream'", RequestRefused),
        (None, "something broke", ServerFault),
        (None, "the deadline in 1.0 s cannot be met: 50 steps take about 9.1 s [DEADLINE_EXCEEDED]", DeadlineExceeded),
        ("StatusCode.UNAVAILABLE", "the deadline passed while it waited [DEADLINE_EXCEEDED]", DeadlineExceeded),
        ("StatusCode.UNAVAILABLE", "failed to connect", Unavailable),
    ],
)
def test_errors_are_sorted_by_what_the_caller_can_do(status: str | None, message: str, kind: type) -> None:
    error = client_error(InferenceServerException(msg=message, status=status))
    assert type(error) is kind
    assert "\n" not in str(error) and "in ensemble" not in str(error)
    assert not str(error).endswith("]")


def test_certificates_without_tls_are_refused_rather_than_dropped(tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match="without TLS"):
        TextToVideo(Connection(ca_file=tmp_path / "ca.pem"))
    with pytest.raises(RequestRefused, match="ca.pem is not a file"):
        TextToVideo(Connection(tls=True, ca_file=tmp_path / "ca.pem"))


def test_a_folder_as_output_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--out", str(tmp_path), "--url", "127.0.0.1:1"]) == 6
    assert "Is a directory" in capsys.readouterr().err


def test_a_closed_client_refuses_every_call() -> None:
    with TextToVideo(Connection("127.0.0.1:1")) as client:
        pass
    for call in (client.generate, client.stream, client.generate_unary):
        with pytest.raises(RequestRefused, match="^the client is closed$"):
            call("x")
    for ask in (client.models, client.limits):
        with pytest.raises(RequestRefused, match="^the client is closed$"):
            ask()


def test_a_type_checker_sees_no_name_that_is_not_there() -> None:
    """A function `__getattr__` of the module would tell it that there is any name."""
    module = ast.parse(Path(wan_t2v_client.__file__).read_text(encoding="utf-8"))
    assert "__getattr__" not in [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    assert all(getattr(wan_t2v_client, name).__name__ == name for name in wan_t2v_client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'TextToVido'"):
        wan_t2v_client.TextToVido  # noqa: B018
