"""What the server writes behind an error's message, the client reads."""

import pytest
import wan_t2v_client.error_tail as of_client
from tritonclient.utils import InferenceServerException
from wan_t2v_client import RequestRefused, Unavailable
from wan_t2v_client.errors import client_error

import wan_t2v.serving.error_tail as of_server
from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.errors import Overloaded
from wan_t2v.serving.python_backend.responses import error_response

TAILS = [
    of_server.ErrorTail("INTERNAL"),
    of_server.ErrorTail("INVALID_ARGUMENT", "height"),
    of_server.ErrorTail("INVALID_ARGUMENT", "num_frames, height, width"),
    of_server.ErrorTail("UNAVAILABLE", retry_after_s=90),
]
WITHOUT = [
    "something broke",
    "prompt: got [INTERNAL]; accepted: words.",
    "[UNAVAILABLE]",
    "text [unavailable]",
    "text [UNAVAILABLE] ",
    "text [UNAVAILABLE]\n",
]


@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_both_sides_read_what_the_server_writes(tail: of_server.ErrorTail) -> None:
    told = f"what happened, with [brackets] and a = b{tail}"
    message, here = of_server.split_tail(told)
    assert of_client.split_tail(told)[0] == message == "what happened, with [brackets] and a = b"
    there = of_client.split_tail(told)[1]
    assert here and there
    assert (here.status, here.field, here.retry_after_s) == (there.status, there.field, there.retry_after_s)
    assert here.field == (tail.field and tail.field.replace(" ", ""))


@pytest.mark.parametrize("text", WITHOUT)
def test_a_message_that_is_not_ours_has_none(text: str) -> None:
    assert of_server.split_tail(text) == (text, None)
    assert of_client.split_tail(text) == (text, None)


def test_words_of_the_caller_are_never_read_as_the_tail() -> None:
    error = InvalidField("caption", "x [UNAVAILABLE retry_after_s=1]", "words [UNAVAILABLE retry_after_s=1]")
    told = error_response(FakePbUtils(), error).error().message()
    refused = client_error(InferenceServerException(msg=told))
    assert isinstance(refused, RequestRefused) and refused.field == "caption"


def test_the_client_tries_again_when_the_server_says() -> None:
    told = error_response(FakePbUtils(), Overloaded("2 wait", retry_after_s=7)).error().message()
    unavailable = client_error(InferenceServerException(msg=told))
    assert isinstance(unavailable, Unavailable) and unavailable.retry_after_s == 7
    assert str(unavailable) == "2 wait"


@pytest.mark.parametrize("name", ["x" * 3_000_000, "x y] is not ready", "a\nb", "[UNAVAILABLE]", ""])
def test_a_name_of_the_callers_own_does_not_reach_the_tail(name: str) -> None:
    error = InvalidField(name, "a value", "a known name")
    told = error_response(FakePbUtils(), error).error().message()
    assert told.endswith(" [INVALID_ARGUMENT]") and len(told) < 400
    assert of_server.split_tail(told) == (str(error), of_server.ErrorTail("INVALID_ARGUMENT"))
    assert of_client.split_tail(told)[0] == str(error)


def test_a_later_server_may_say_more() -> None:
    tail = of_client.split_tail("2 wait [UNAVAILABLE retry_after_s=7 zone=b]")[1]
    assert tail == of_client.ErrorTail("UNAVAILABLE", retry_after_s=7)
    assert of_client.split_tail("2 wait [UNAVAILABLE retry_after_s=soon]")[1] == of_client.ErrorTail("UNAVAILABLE")
