"""Responses without an end, to viewers of any speed: each is given the latest, and what it missed is gone."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KeyT = TypeVar("KeyT")


class Mailbox:
    """Holds one message; a newer one takes its place. For the event loop's thread only."""

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._is_full = asyncio.Event()
        self._is_closed = False

    def put(self, message: bytes) -> None:
        """Leave a message, over one that nobody has taken."""
        self._message = message
        self._is_full.set()

    def close(self) -> None:
        """End the reading."""
        self._is_closed = True
        self._is_full.set()

    async def messages(self, again_s: float | None = None) -> AsyncIterator[bytes]:
        """Yield messages until closed; the last one again where none came for ``again_s``, so that silence is not one.

        A connection that is dead is only found out by writing to it.
        """
        last: bytes | None = None
        while True:
            try:
                async with asyncio.timeout(again_s):
                    await self._is_full.wait()
            except TimeoutError:
                if last is not None:
                    yield last
                continue
            if self._is_closed:
                return
            self._is_full.clear()
            last, self._message = self._message, None
            if last is not None:
                yield last


class Channel(Generic[KeyT]):
    """Mailboxes by what they are for. Made, subscribed to and published on in the event loop's thread."""

    def __init__(self, limit: int) -> None:
        self._boxes: dict[KeyT, set[Mailbox]] = {}
        self._limit = limit
        self._is_closed = False

    @property
    def keys(self) -> tuple[KeyT, ...]:
        """What somebody waits for; any thread may ask."""
        return tuple(self._boxes.copy())

    @property
    def size(self) -> int:
        """Mailboxes in all; any thread may ask."""
        return sum(len(boxes) for boxes in self._boxes.copy().values())

    @property
    def is_full(self) -> bool:
        """Whether another mailbox would be one too many."""
        return self._is_closed or self.size >= self._limit

    @contextmanager
    def subscription(self, key: KeyT) -> Iterator[Mailbox]:
        """A mailbox for as long as the block runs."""
        box = Mailbox()
        boxes = self._boxes.setdefault(key, set())
        boxes.add(box)
        try:
            if self._is_closed:
                box.close()
            yield box
        finally:
            boxes.discard(box)
            if not boxes:
                self._boxes.pop(key, None)

    def publish(self, key: KeyT, message: bytes) -> None:
        """Put a message into every mailbox of a key."""
        for box in self._boxes.get(key, ()):
            box.put(message)

    def close(self) -> None:
        """End every subscription, and those to come."""
        self._is_closed = True
        for boxes in self._boxes.values():
            for box in boxes:
                box.close()


class FeedResponse(Response):
    """A response of messages until the viewer leaves, the feed closes, or nothing was taken for ``stall_s``."""

    def __init__(self, messages: Callable[[], AsyncGenerator[bytes, None]], media_type: str, stall_s: float) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers["X-Accel-Buffering"] = "no"
        self._messages = messages
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one side ends it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        tasks = {asyncio.ensure_future(self._pump(send)), asyncio.ensure_future(_until_gone(receive))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _pump(self, send: Send) -> None:
        # Closed by name: left to the garbage collector, a viewer that is gone would count as one for a while.
        async with aclosing(self._messages()) as messages:
            async for message in messages:
                try:
                    body = {"type": "http.response.body", "body": message, "more_body": True}
                    # Not wait_for: Python 3.11's forgets a cancellation that comes as the send ends.
                    async with asyncio.timeout(self._stall_s):
                        await send(body)
                except TimeoutError:
                    return
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
