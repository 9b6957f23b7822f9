from typing import Any

import numpy as np
import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeResponse, FakeTensor, FakeTritonError
from wan_t2v.serving.errors import InvalidFieldUpstream, MissingOutput, ModelCallError
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.tensors import numpy_from_triton


def engine(pb_utils: FakePbUtils) -> TritonEngine:
    return TritonEngine(pb_utils, "low_noise_expert", read=numpy_from_triton)


def test_a_call_returns_the_wanted_outputs() -> None:
    pb_utils = FakePbUtils(lambda model, inputs, outputs: FakeResponse([FakeTensor("y", inputs["x"] * 2)]))
    assert engine(pb_utils)({"x": np.ones(3)}, ["y"])["y"].tolist() == [2, 2, 2]
    assert pb_utils.called == ["low_noise_expert"]


def test_an_error_names_the_model_and_keeps_its_code() -> None:
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError("wrong shape", "INVALID_ARG")))
    with pytest.raises(ModelCallError, match="low_noise_expert: wrong shape") as error_response:
        engine(pb_utils)({"x": np.ones(3)}, ["y"])
    assert error_response.value.code == "INVALID_ARG"


@pytest.mark.parametrize(
    "message",
    [
        "Stub process 'x_0_0' is not healthy.",
        "Failed to obtain the health mutex.",
        "Server not ready",
        "Model x is not ready",
        "Failed for execute the inference request. Request for unknown model: 'x' is not found",
        "Request for unknown model: 'x' has no available versions",
    ],
)
def test_what_passes_by_itself_is_unavailable_and_says_to_try_again(message: str) -> None:
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError(message, "INTERNAL")))
    with pytest.raises(ModelCallError, match="try again") as error_response:
        engine(pb_utils)({"x": np.ones(3)}, ["y"])
    assert error_response.value.code == "UNAVAILABLE"


def test_an_output_that_did_not_come_is_named_and_may_come_later() -> None:
    pb_utils = FakePbUtils(lambda model, inputs, outputs: FakeResponse([FakeTensor("y", inputs["x"])]))
    with pytest.raises(
        MissingOutput, match="low_noise_expert: .*try again: it answered without z, w"
    ) as error_response:
        engine(pb_utils)({"x": np.ones(3)}, ["y", "z", "w"])
    assert error_response.value.code == "UNAVAILABLE"


def test_a_call_that_triton_refuses_outright_is_an_error_too() -> None:
    def refuse(*_: Any) -> FakeResponse:
        raise FakePbUtils.TritonModelException("Failed for execute the inference request. Model 'x' is not found")

    with pytest.raises(ModelCallError, match="low_noise_expert") as error_response:
        engine(FakePbUtils(refuse))({"x": np.ones(3)}, ["y"])
    assert error_response.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("prefix", ["", "in ensemble 'x', "])
def test_a_field_that_a_called_model_refuses_is_the_callers(prefix: str) -> None:
    """2.51 calls it INTERNAL; the tail still says what it is."""
    told = f"{prefix}height: got 100; accepted: 96. [INVALID_ARGUMENT field=height]"
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError(told, "INTERNAL")))
    with pytest.raises(InvalidFieldUpstream) as refused:
        engine(pb_utils)({"x": np.ones(3)}, ["y"])
    assert (refused.value.code, refused.value.field) == ("INVALID_ARG", "height")
    assert str(refused.value) == f"{prefix}height: got 100; accepted: 96."


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "CANCELLED"])
def test_a_code_that_triton_lost_is_read_in_the_tail(code: str) -> None:
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError(f"it broke [{code}]", "INTERNAL")))
    with pytest.raises(ModelCallError, match="^low_noise_expert: it broke$") as failed:
        engine(pb_utils)({"x": np.ones(3)}, ["y"])
    assert failed.value.code == code
