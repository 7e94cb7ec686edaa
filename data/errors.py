"""The error that a user of the data room can mend."""


class DataError(ValueError):
    """Something in the user's files or settings is wrong; the text is one line that says how to mend it."""

    def __init__(self, text: str) -> None:
        # Names out of files that others wrote may hold line breaks, or what a terminal obeys.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
