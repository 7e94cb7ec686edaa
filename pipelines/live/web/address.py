"""Where the page is served, and under which names it may be asked for."""

import ipaddress
import socket
from collections.abc import Iterable

from data.errors import DataError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostRule:
    """The names that a request's Host header may carry.

    A page elsewhere whose name was pointed at this machine (DNS rebinding) carries its own name and is refused.
    An address in figures cannot be pointed elsewhere, so that any is taken where the server is open to the network.

    Args:
        host: What the server is bound to.
        more: Further names, as of a proxy before it; a port is left out.
    """

    def __init__(self, host: str, more: Iterable[str] = ()) -> None:
        self._takes_figures = not is_loopback(host)
        names = {*_LOCAL_NAMES, *(_without_port(name.strip()) for name in more)}
        if not is_loopback(host):
            own = socket.gethostname().lower()
            names |= {host, own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        self._names = {name.lower().strip("[]").rstrip(".") for name in names} - set(_EVERYWHERE)

    def allows(self, header: str | None) -> bool:
        """Judge a Host header, whatever its port."""
        if header is None:
            return False
        name = _without_port(header.strip().lower())
        if name in self._names:
            return True
        try:
            return self._takes_figures and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    if header.count(":") > 1:  # an address of IPv6, as people write it
        return header
    return header.partition(":")[0].rstrip(".")


def shown_host(host: str) -> str:
    """What to write into an address that somebody opens."""
    if host in _EVERYWHERE:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int, stall_s: float) -> socket.socket:
    """Bind and listen; the system drops a connection whose other end takes nothing for ``stall_s``.

    Raises:
        DataError: the address is taken, or not of this machine.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise DataError(f"--serve {host}:{port}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A small buffer: a slow viewer sees late pictures only for as long as the system holds them back.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_s * 1000))
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise DataError(
            f"--serve {host}:{port}: {error.strerror or error}; give another port, or 0 for a free one"
        ) from None
    return listener
