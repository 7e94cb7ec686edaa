"""Ctrl-C and SIGTERM ask for a stop; who works decides at which moment."""

import atexit
import functools
import multiprocessing
import multiprocessing.util  # registers its own end-of-process cleaning, which ours has to come before
import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_PRESS_S = 0.5
"""torchrun hands a Ctrl-C on to processes that the terminal has sent it to already: so soon it is the same one."""
_SAID = b"\nrgbt: stopping after the step in hand; Ctrl-C again stops at once\n"


class StopSignal:
    """Says whether the process was asked to stop; a second Ctrl-C raises KeyboardInterrupt at once.

    While the context is open, SIGINT and SIGTERM only set the flag that a call returns.
    """

    def __init__(self, talks: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int | None = None
        """Of the first signal that came; None: none came."""
        self._talks, self._clock = talks, clock
        self._pressed: float | None = None

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._pressed is not None and self._clock() - self._pressed > _ONE_PRESS_S:
                raise KeyboardInterrupt
            self._pressed = self._clock() if self._pressed is None else self._pressed
        if self.number is None:
            self.number = number
            if self._talks:
                os.write(2, _SAID)  # print may not be entered again from a signal handler


def shielded(prepare: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """The ``worker_init_fn`` of a DataLoader whose workers outlive signals meant for the run.

    A terminal and most job schedulers signal the whole process group; a worker that obeyed would take the batch in hand
    with it. What ignores SIGTERM must be killed otherwise when the process ends, which is seen to here.

    Args:
        prepare: What else a worker does at its start.
    """
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)
    return functools.partial(_start_worker, prepare)


def _start_worker(prepare: Callable[[int], None] | None, worker: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if prepare is not None:
        prepare(worker)


def _end_workers() -> None:
    """Python asks daemons by SIGTERM to end, and would wait for ever for one that ignores it."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a killed worker for a failure
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
