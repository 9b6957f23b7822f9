from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.cancellation import Cancelled
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.errors import AlreadyRunning, ModelCallError
from wan_t2v.serving.python_backend.responses import error_response, respond_to_all, streamed_error_response

FAILURES = [
    (InvalidField("seed", -1, "0 or more"), "INVALID_ARG", "seed: got -1; accepted: 0 or more."),
    (ModelCallError("vae_decoder_next", "gone", "UNAVAILABLE"), "UNAVAILABLE", "vae_decoder_next: gone"),
    (AlreadyRunning("the key is in use"), "ALREADY_EXISTS", "the key is in use"),
    (Cancelled("cancelled after step 3"), "CANCELLED", "cancelled after step 3"),
    (ZeroDivisionError("oops"), "INTERNAL", "ZeroDivisionError: oops"),
]


@pytest.mark.parametrize(("error", "code", "message"), FAILURES)
def test_a_failure_becomes_an_error_with_its_code_and_harms_no_other_request(
    error: Exception, code: str, message: str
) -> None:
    def answer(request: Any) -> list[Any]:
        if request == "bad":
            raise error
        return [request]

    pb_utils = FakePbUtils()
    good, bad, also_good = respond_to_all(pb_utils, ["good", "bad", "good"], answer)
    assert (good.has_error(), also_good.has_error()) == (False, False)
    assert (bad.error().code(), bad.error().message()) == (code, message)
    assert "\n" not in bad.error().message()


@pytest.mark.parametrize(("error", "code", "message"), FAILURES)
def test_in_a_stream_the_message_begins_with_grpcs_name_of_the_code(error: Exception, code: str, message: str) -> None:
    told = streamed_error_response(FakePbUtils(), error).error()
    status = {"INVALID_ARG": "INVALID_ARGUMENT"}.get(code, code)
    assert (told.code(), told.message()) == (code, f"{status}: {message}")
    assert grpc.StatusCode[status]


@pytest.mark.parametrize(
    "region",
    [
        "/triton_python_backend_shm_region_1b9ef882-2349-4ec8-bbc6-44ad595917d4",
        "/wan_t2v_29122_and7_ryv_1b9ef882-2349-4ec8-bbc6-44ad595917d4",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, lambda text: ModelCallError("prepare", text, "INTERNAL")])
def test_no_answer_names_a_region_of_shared_memory(kind: Callable[[str], Exception], region: str) -> None:
    error = kind(f"Failed to increase the shared memory pool size for key '{region}' to 67108864 bytes")
    for told in (error_response(FakePbUtils(), error), streamed_error_response(FakePbUtils(), error)):
        assert told.error().message().endswith("for key '(a region)' to 67108864 bytes")


def test_only_our_own_faults_are_logged_with_a_traceback() -> None:
    def fail(request: Any) -> list[Any]:
        raise request

    pb_utils = FakePbUtils()
    respond_to_all(pb_utils, [InvalidField("seed", -1, "0 or more")], fail)
    assert pb_utils.logged == []
    respond_to_all(pb_utils, [KeyError("settings")], fail)
    assert "Traceback" in pb_utils.logged[0]
