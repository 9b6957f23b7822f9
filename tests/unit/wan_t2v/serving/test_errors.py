"""Every error of serving has its code and its outcome in one place."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import wan_t2v.serving
from tests.fakes.pb_utils import FakeTritonError
from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import NonFiniteLatents, NonFiniteVelocity
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.frames import NonFiniteFrames
from wan_t2v.serving.errors import OUTCOMES, ServingError, outcome, triton_code
from wan_t2v.serving.resume.checkpoint_file import DamagedCheckpoint

NEVER_TOLD = {DamagedCheckpoint}  # ends in a line of the log, and the generation begins anew


def exceptions_of_serving() -> Iterator[type[BaseException]]:
    """Classes defined anywhere under `wan_t2v.serving`."""
    for found in pkgutil.walk_packages(wan_t2v.serving.__path__, "wan_t2v.serving."):
        module = importlib.import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__ == found.name:
                yield kind


def subclasses(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_every_exception_of_serving_has_its_code_and_outcome_in_one_file() -> None:
    strangers = {kind for kind in exceptions_of_serving() if not issubclass(kind, ServingError)}
    assert strangers == NEVER_TOLD


@pytest.mark.parametrize("kind", sorted(set(subclasses(ServingError)), key=lambda kind: kind.__name__))
def test_code_and_outcome_are_ones_that_exist(kind: type[ServingError]) -> None:
    error = kind.__new__(kind)
    assert hasattr(FakeTritonError, triton_code(error) or "")
    assert outcome(error) in OUTCOMES
    if outcome(error).startswith("refused_"):
        assert triton_code(error) != "INTERNAL", "whoever is refused is told why"


@pytest.mark.parametrize("kind", [NonFiniteVelocity, NonFiniteLatents, NonFiniteFrames])
def test_an_overflow_is_the_servers_fault_wherever_it_is_noticed(kind: type[Exception]) -> None:
    assert (triton_code(kind()), outcome(kind())) == (None, "failed")


def test_the_errors_of_the_steps_are_told_and_others_are_not() -> None:
    assert (triton_code(InvalidField("seed", -1, "0 or more")), outcome(InvalidField("seed", -1, "0"))) == (
        "INVALID_ARG",
        "refused_invalid",
    )
    assert (triton_code(Cancelled()), outcome(Cancelled())) == ("CANCELLED", "cancelled")
    assert (triton_code(ZeroDivisionError()), outcome(ZeroDivisionError()), outcome(None)) == (
        None,
        "failed",
        "finished",
    )
