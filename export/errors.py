"""The error that a user of the export room can mend."""


class ExportError(ValueError):
    """A bundle, engine or provider does not do what was asked; the text is one line that says how to mend."""
