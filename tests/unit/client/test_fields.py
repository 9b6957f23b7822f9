"""One table has the request's fields: it makes their inputs, their options and what a batch's line may have."""

from pathlib import Path

import numpy as np
import pytest
from wan_t2v_client import RequestRefused
from wan_t2v_client.cli.batch_file import requests_from_file
from wan_t2v_client.cli.main import main
from wan_t2v_client.fields import FIELDS, PARAMETERS, Field, encode_fields, input_from_field, unknown_field

from tests.fakes.call_client import APIS, collect_stream, unary
from tests.fakes.scripted_server import MADE, serving


@pytest.fixture
def sharpness(monkeypatch: pytest.MonkeyPatch) -> str:
    """A field that no server has, added to the table and nowhere else."""
    monkeypatch.setitem(FIELDS, "edge_sharpness", Field("FP32", "how sharp edges are"))
    return "edge_sharpness"


def test_a_field_of_the_table_is_an_input_and_an_option(sharpness: str, tmp_path: Path) -> None:
    (sent,), _ = encode_fields({sharpness: 0.5})
    assert (sent.name, sent.datatype, sent.array.shape) == (sharpness, "FP32", (1,))
    command = ["generate", "a ball", "--out", str(tmp_path / "x.mp4")]
    with serving(MADE) as server:
        assert main([*command, "--url", server.url, "--edge-sharpness", "0.5"]) == 0
        assert main([*command, "--url", server.url]) == 0
    given, left_out = server.requests
    assert ("edge_sharpness", "FP32") in [(field.name, field.datatype) for field in given.inputs]
    assert [field.name for field in left_out.inputs] == ["prompt"]


def test_a_field_of_the_table_is_in_the_commands_help(sharpness: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "batch"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "how sharp edges are" in capsys.readouterr().out


def test_a_field_of_the_table_may_stand_in_a_batchs_line(sharpness: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a ball", "edge_sharpness": 1}\n{"prompt": "a cube"}\n')
    first, second = requests_from_file(path, {sharpness: 0.5})
    assert [first.fields[sharpness], second.fields[sharpness]] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 2**32 + 17),
        ("num_frames", 17.5),
        ("seed", 2**63),
        ("seed", True),
        ("flow_shift", 1e39),
        ("prompt", "\udcff"),
        ("prompt", ["a ball"]),
        ("height", "high"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_and_not_wrapped_round(name: str, value: object) -> None:
    with pytest.raises(RequestRefused, match=f"{name}: got .* which cannot be sent"):
        input_from_field(name, value)


def test_fields_are_sent_in_their_types() -> None:
    assert input_from_field("seed", 2**63 - 1).datatype == "INT64"
    assert input_from_field("latents", np.zeros((1, 16, 1, 2, 2))).array.shape == (1, 16, 1, 2, 2)


def test_an_unknown_name_is_compared_only_if_it_is_short() -> None:
    assert "is height meant?" in unknown_field("hight")
    assert len(unknown_field("height" * 100_000)) < 200


@pytest.mark.parametrize(
    "parameters",
    [
        {"queue_priority": 2**63},
        {"queue_priority": 1.5},
        {"queue_priority": b"1"},
        {"idempotency_key": "\udcff"},
        {"idempotency_key": b"\xff"},
        {"idempotency_key": 7},
    ],
)
def test_parameters_that_cannot_be_sent_are_refused(parameters: dict) -> None:
    with pytest.raises(RequestRefused, match="which cannot be sent"):
        encode_fields({"prompt": "x", **parameters})


@pytest.mark.parametrize("prompt", ["a ball", b"a ball", np.str_("a ball"), np.bytes_(b"a ball")])
def test_texts_of_every_type_are_sent_as_they_are(prompt: str | bytes) -> None:
    message = encode_fields({"prompt": prompt}).message("text_to_video", timeout_us=None)
    assert message.raw_input_contents[0] == b"\x06\x00\x00\x00a ball"


@pytest.mark.parametrize("name", [*FIELDS, *PARAMETERS])
def test_a_value_of_another_type_is_sent_or_refused(name: str) -> None:
    for value in (b"bytes", "text", 1, 1.5, True, 1j, [1, "x"], {}, object(), np.int64(1), np.str_("text")):
        try:
            request = encode_fields({"prompt": "x", name: value})
        except RequestRefused as refusal:
            assert str(refusal).startswith(f"{name}: got ")
        else:
            request.message("text_to_video", timeout_us=None)


@pytest.mark.parametrize("api", APIS)
def test_a_parameter_may_be_bytes_as_a_field_may(api: str) -> None:
    with serving(MADE) as server:
        collect_stream(api, server.url, idempotency_key=b"a key")
        unary(api, server.url, idempotency_key=b"a key")
    sent = [request.parameters["idempotency_key"].string_param for request in server.requests]
    assert sent == ["a key", "a key"]
