"""The error that a user of the fusion room can mend."""


class FusionError(ValueError):
    """A recipe, weights file or checkpoint does not fit; the text is one line that says how to mend it."""


class Stopped(Exception):
    """Training was asked to stop; all that was done is saved."""
