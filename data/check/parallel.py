"""Many pairs at once, in order, within bounded memory, and stopped at once by Ctrl-C."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(task: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None) -> Iterator[Result]:
    """Yield ``task(item)`` in order; an error, or leaving the loop, drops what has not begun.

    Threads, since decoding, resizing, transforms and hashes run outside of Python's lock.
    """
    workers = workers or default_workers()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    waiting: deque[Future[Result]] = deque()
    try:
        with _one_thread_each():
            for item in items:
                waiting.append(pool.submit(task, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """OpenCV's own threads would only stand in each other's way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
