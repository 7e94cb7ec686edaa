"""Numbers on the command line that several actions take."""

import argparse


def whole(text: str) -> int:
    """A whole number from 0, or wrong usage."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return int(text)
