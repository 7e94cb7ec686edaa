"""What is wrong with what was typed."""

from data.errors import DataError


class UsageError(DataError):
    """Options make no sense, do not go together, or would have no effect: exit code 2."""
