"""A caller who no longer wants the result; apart from the loop so that models without torch can know it."""


class Cancelled(Exception):
    """The caller no longer wants the result; the work stopped between two steps."""
