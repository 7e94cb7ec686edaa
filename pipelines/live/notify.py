"""Tells systemd how a service is: ready, alive, stopping (sd_notify, without its library)."""

import os
import socket
from collections.abc import Callable, Mapping
from time import monotonic


class Notifier:
    """Sends notes to the socket that systemd names; does nothing where it names none.

    A unit needs ``Type=notify``, and ``WatchdogSec=`` for the watchdog: the loop that answers pairs is what says that
    it is alive, so a model that hangs gets the service started anew.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up in it.
        clock: Seconds that only rise.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, clock: Callable[[], float] = monotonic) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._clock = clock
        is_for_us = found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = found.get("WATCHDOG_USEC", "")
        self._every_s = int(microseconds) / 2e6 if is_for_us and microseconds.isdecimal() else None
        self._barked_at = -1e9
        if self._address[:1] in ("/", "@") and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """The service is up."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: Callable[[], str]) -> None:
        """Say so at half the watchdog's time, with the status; call it as often as you like."""
        now = self._clock()
        if self._socket is None or now - self._barked_at < min(self._every_s or 10.0, 10.0):
            return
        self._barked_at = now
        self._send(f"STATUS={status()}" + ("\nWATCHDOG=1" if self._every_s else ""))

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto(text.encode(), address)
        except OSError:  # nobody listens, or it is busy: the next note tells the same
            return
