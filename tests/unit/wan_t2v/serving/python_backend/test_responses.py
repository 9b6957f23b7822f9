from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.cancellation import Cancelled
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.error_tail import STATUS_OF_CODE
from wan_t2v.serving.errors import AlreadyRunning, InvalidFieldUpstream, ModelCallError, OutOfTime, Overloaded
from wan_t2v.serving.python_backend.responses import error_response, respond_to_all

FAILURES = [
    (
        InvalidField("seed", -1, "0 or more"),
        "INVALID_ARG",
        "seed: got -1; accepted: 0 or more. [INVALID_ARGUMENT field=seed]",
    ),
    (
        InvalidFieldUpstream("prepare", "height, width: got 7x7; accepted: 8.", "INVALID_ARG", field="height,width"),
        "INVALID_ARG",
        "height, width: got 7x7; accepted: 8. [INVALID_ARGUMENT field=height,width]",
    ),
    (ModelCallError("vae_decoder_next", "gone", "UNAVAILABLE"), "UNAVAILABLE", "vae_decoder_next: gone [UNAVAILABLE]"),
    (Overloaded("2 wait", retry_after_s=5), "UNAVAILABLE", "2 wait [UNAVAILABLE retry_after_s=5]"),
    (Overloaded("2 wait"), "UNAVAILABLE", "2 wait [UNAVAILABLE]"),
    (OutOfTime("too late"), "UNAVAILABLE", "too late [DEADLINE_EXCEEDED]"),
    (AlreadyRunning("the key is in use"), "ALREADY_EXISTS", "the key is in use [ALREADY_EXISTS]"),
    (Cancelled("cancelled after step 3"), "CANCELLED", "cancelled after step 3 [CANCELLED]"),
    (ZeroDivisionError("oops"), "INTERNAL", "ZeroDivisionError: oops [INTERNAL]"),
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


def test_every_code_has_a_name_that_grpc_knows() -> None:
    codes = {name for name in vars(FakePbUtils().TritonError) if name.isupper()}
    assert codes - {"UNKNOWN"} <= set(STATUS_OF_CODE), "a code that nobody names"
    assert all(grpc.StatusCode[status] for status in STATUS_OF_CODE.values())


@pytest.mark.parametrize(
    "region",
    [
        "/triton_python_backend_shm_region_1b9ef882-2349-4ec8-bbc6-44ad595917d4",
        "/wan_t2v_29122_and7_ryv_1b9ef882-2349-4ec8-bbc6-44ad595917d4",
        "/wan_t2v_pod_1b9ef882-2349-4ec8-bbc6-44ad595917d4",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, lambda text: ModelCallError("prepare", text, "INTERNAL")])
def test_no_answer_names_a_region_of_shared_memory(kind: Callable[[str], Exception], region: str) -> None:
    error = kind(f"Failed to increase the shared memory pool size for key '{region}' to 67108864 bytes")
    told = error_response(FakePbUtils(), error).error().message()
    assert told.endswith("for key '(a region)' to 67108864 bytes [INTERNAL]")


def test_only_our_own_faults_are_logged_with_a_traceback() -> None:
    def fail(request: Any) -> list[Any]:
        raise request

    pb_utils = FakePbUtils()
    respond_to_all(pb_utils, [InvalidField("seed", -1, "0 or more")], fail)
    assert pb_utils.logged == []
    respond_to_all(pb_utils, [KeyError("settings")], fail)
    assert "Traceback" in pb_utils.logged[0]
