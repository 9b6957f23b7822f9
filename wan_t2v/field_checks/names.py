"""Names that a request may use."""

from collections.abc import Sequence

from wan_t2v.field_checks.invalid_field import InvalidField, closest_name


def check_parameters(names: Sequence[str], *, fields: Sequence[str], parameters: Sequence[str]) -> None:
    """Reject request parameters that would be ignored: unknown names, and fields, which must be tensors.

    A misspelt field, or one that is not sent as a tensor, silently becomes a request parameter. Raises InvalidField.
    """
    for name in names:
        if name in fields:
            raise InvalidField(name, "a request parameter", "a tensor of this name: send the field as an input")
        if name not in parameters:
            known = (*fields, *parameters)
            raise InvalidField(name, "an unknown field", ", ".join(known), nearest=closest_name(name, known))
