"""The error that a user of the data room can mend."""


class DataError(ValueError):
    """Something in the user's files or settings is wrong; the text is one line that says how to mend it."""
