"""Works through the cells of rgbt compare: one after the other here, or several at a time in processes of their own."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from data.errors import DataError
from export.cores import cores
from fusion.errors import FusionError, Stopped
from pipelines.compare_cells import LOG, Cell, Train
from pipelines.stage_store import Claim
from pipelines.stopping import StopSignal

_STOPPED, _FAILED = 130, 1
_BEAT_S = 0.5
"""How often the progress line is drawn, and how often is looked whether somebody else's cell has become free."""


@dataclass
class _Running:
    """A cell in work."""

    cell: Cell
    claim: Claim
    planned: int
    """Optimiser steps that are expected of it."""
    steps: Callable[[], int]
    """How many of them are done."""
    process: BaseProcess | None = None
    errors: Connection | None = None


@dataclass
class Progress:
    """One line: cells done, cells in work, time left."""

    cells: int
    pending: list[Cell]
    running: list[_Running] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why a cell failed, its name first."""
    _steps: int = 0
    """Of the cells that were finished since the start."""
    _started: float = field(default_factory=time.monotonic)
    _drawn: float = 0.0

    def beat(self) -> None:
        """Draw the line again, if somebody looks at it and it is time."""
        now = time.monotonic()
        if sys.__stderr__ is not None and sys.__stderr__.isatty() and now - self._drawn > _BEAT_S:
            self._drawn = now
            working = "; ".join(one.cell.label for one in self.running)
            sys.__stderr__.write(f"\r{self._done()}  {working}  {self._left()}\x1b[K")
            sys.__stderr__.flush()

    def finished(self, one: _Running) -> None:
        """Count a cell, and say so in a line that stays."""
        self._steps += one.steps()
        self.running.remove(one)
        self.say(f"{self._done()}  {one.cell.label} finished  {self._left()}")

    def failed(self, one: _Running, reason: str) -> None:
        """Remember why a cell failed, and say so; the others go on."""
        self.running.remove(one)
        self.failures.append(reason)
        self.say(f"{self._done()}  failed: {reason}")

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if sys.__stderr__ is not None:
            start, end = ("\r", "\x1b[K\n") if sys.__stderr__.isatty() else ("", "\n")
            sys.__stderr__.write(f"{start}{text.rstrip()}{end}")
            sys.__stderr__.flush()

    def _done(self) -> str:
        left = len(self.pending) + len(self.running) + len(self.failures)
        return f"compare  {self.cells - left}/{self.cells} cells"

    def _left(self) -> str:
        """From the steps that are done and those that are still expected; stages that recipes share count once."""
        to_come: dict[str, int] = {}
        for cell in self.pending:
            to_come |= cell.todo()
        for one in self.running:
            to_come = {key: steps for key, steps in to_come.items() if key not in one.cell.keys}
        done = self._steps + sum(one.steps() for one in self.running)
        left = sum(to_come.values()) + sum(max(0, one.planned - one.steps()) for one in self.running)
        if not done or not left:
            return ""
        minutes = (time.monotonic() - self._started) * left / done / 60
        return f"about {minutes:.0f} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"


def run_cells(cells: Sequence[Cell], jobs: int, train: Train) -> None:
    """Finish all cells; what is finished already is not looked at.

    Raises:
        Stopped: Ctrl-C or SIGTERM; the cells in work have saved where they are.
        DataError: a cell could not be trained or measured; the others are finished all the same.
    """
    progress = Progress(len(cells), [cell for cell in cells if not cell.finished])
    if not progress.pending:
        return
    with StopSignal() as stop, _Processes(jobs, train, progress) as processes:
        while progress.pending or progress.running:
            if stop():
                processes.stop()
                raise Stopped(f"compare was stopped by signal {stop.number}")
            one = _next(progress) if len(progress.running) < jobs else None
            if one is not None and jobs == 1:
                _work_here(one, train, progress, stop)
            elif one is not None:
                processes.start(one)
            else:
                processes.wait()
            progress.beat()
    if progress.failures:
        raise DataError(_told(progress))


def _told(progress: Progress) -> str:
    """One line for all that failed."""
    several = f"{len(progress.failures)} of {progress.cells} cells failed: " if len(progress.failures) > 1 else ""
    return (
        f"{several}{'; '.join(progress.failures)}. All other cells are finished and kept: mend it and say the same "
        "command again, or leave the recipe out"
    )


def _next(progress: Progress) -> _Running | None:
    """The first cell that nobody else works on and whose stages nobody else is training."""
    for cell in list(progress.pending):
        claim = cell.claim()
        if claim is None:
            continue
        progress.pending.remove(cell)
        if not cell.finished:  # by another rgbt compare, meanwhile
            one = _Running(cell, claim, sum(cell.todo().values()), lambda: 0)
            progress.running.append(one)
            return one
        claim.release()
    return None


def _work_here(one: _Running, train: Train, progress: Progress, stop: Callable[[], bool]) -> None:
    steps = 0
    one.steps = lambda: steps

    def polled() -> bool:
        nonlocal steps
        steps += 1
        progress.beat()
        return stop()

    with one.claim:
        try:
            one.cell.run(train, polled)
        except (DataError, FusionError) as error:
            progress.failed(one, str(error))
        else:
            progress.finished(one)


class _Processes:
    """Cells in processes of their own, each with its share of the processor's cores."""

    def __init__(self, jobs: int, train: Train, progress: Progress) -> None:
        self._train, self._progress = train, progress
        self._threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._progress.running:  # an error, or a second Ctrl-C: what is saved is whole at any moment
            if one.process is not None:
                one.process.kill()
                one.process.join()
                one.claim.release()

    def start(self, one: _Running) -> None:
        """Begin a cell."""
        counter = self._context.Value("q", 0)
        one.steps = lambda: int(counter.value)
        one.errors, sender = self._context.Pipe(duplex=False)
        one.process = self._context.Process(
            target=_work_there, args=(one.cell, self._train, counter, sender, os.getpid()), name=one.cell.label
        )
        with _environment(OMP_NUM_THREADS=self._threads, MKL_NUM_THREADS=self._threads), _deaf():
            one.process.start()
        sender.close()

    def wait(self) -> None:
        """Until a process ends, or for a moment; then count what has ended."""
        processes = [one.process for one in self._progress.running if one.process is not None]
        if not processes:
            time.sleep(_BEAT_S)  # all that is left is in the hands of another rgbt compare
        wait([process.sentinel for process in processes], _BEAT_S)
        for one in [one for one in self._progress.running if one.process and one.process.exitcode is not None]:
            self._ended(one)

    def _ended(self, one: _Running) -> None:
        assert one.process is not None and one.errors is not None
        one.claim.release()
        if one.process.exitcode == 0:
            self._progress.finished(one)
            return
        reason = ""
        if one.errors.poll():
            with contextlib.suppress(EOFError):  # its end closed without a word
                reason = one.errors.recv()
        if not reason and one.process.exitcode == _STOPPED:
            self._progress.running.remove(one)
            raise Stopped(f"{one.cell.label} was stopped")
        ended = f"{one.cell.label}: its process ended with code {one.process.exitcode}; see {one.cell.folder / LOG}"
        self._progress.failed(one, reason or ended)

    def stop(self) -> None:
        """Ask all to stop, and wait until they have saved where they are."""
        for one in self._progress.running:
            if one.process is not None:
                one.process.terminate()
        for one in list(self._progress.running):
            if one.process is not None:
                one.process.join()
                one.claim.release()
                self._progress.running.remove(one)


def _work_there(cell: Cell, train: Train, counter: Any, errors: Connection, parent: int) -> None:  # noqa: ANN401 - a shared integer
    """The whole life of a cell's process; a parent that is gone stops it too."""
    with StopSignal(talks=False) as stop:

        def polled() -> bool:
            counter.value += 1
            return stop() or os.getppid() != parent

        try:
            cell.run(train, polled)
        except Stopped:
            sys.exit(_STOPPED)
        except (DataError, FusionError) as error:
            errors.send(str(error))
            sys.exit(_FAILED)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes started within never hear Ctrl-C, which a terminal sends to all: we tell them ourselves, by SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
