"""What a C or C++ library prints past Python: kept off the terminal, for our own line to say."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_lines() -> Iterator[list[str]]:
    """Hold back what goes to the process's standard error meanwhile; its lines are in the list afterwards."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as kept:
        if sys.stderr is not None:
            sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            lines += [line for line in kept.read().decode(errors="replace").splitlines() if line.strip()]
