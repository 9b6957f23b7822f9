"""Names that a request may use, and what is said of others."""

import pytest

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.names import check_parameters


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        InvalidField, match="promt: got an unknown field; accepted: prompt, seed, timeout. Nearest: prompt."
    ):
        check_parameters(["promt"], fields=["prompt", "seed"], parameters=["timeout"])


def test_a_field_that_comes_as_a_parameter_is_refused_and_not_ignored() -> None:
    check_parameters(["timeout"], fields=["seed"], parameters=["timeout"])
    with pytest.raises(InvalidField, match="seed: got a request parameter; accepted: a tensor of this name"):
        check_parameters(["seed"], fields=["seed"], parameters=["timeout"])
