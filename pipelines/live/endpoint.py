"""Addresses that answers are sent to: with their secrets filled in, and a name without them."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from pipelines.live.redact import fill_in, redact_address
from pipelines.live.usage import UsageError

RTSP_PORTS = {"rtsp": 554, "rtsps": 322}
"""Where servers listen unless told otherwise."""


@dataclass(frozen=True)
class Endpoint:
    """A parsed address; its ``name`` is what may be shown."""

    name: str
    scheme: str
    host: str
    port: int | None
    path: str
    user: str | None
    password: str | None
    options: dict[str, str]
    """What follows the question mark."""
    query: str
    """The same, as it was written."""

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Endpoint({self.name})"


def read_endpoint(text: str, option: str, schemes: tuple[str, ...], example: str) -> Endpoint:
    """Parse an address; ``${NAME}`` and ``${file:PATH}`` are replaced by the secrets that they name.

    Raises:
        UsageError: another scheme, no host, or a port that is none.
    """
    parts, name = urlsplit(fill_in(text)), redact_address(text)
    try:
        port = parts.port
    except ValueError:
        raise UsageError(f"{option} {name}: the port is no number from 1 to 65535") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise UsageError(f"{option} {name}: give an address such as {example}")
    return Endpoint(
        name=name,
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        path=parts.path,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        options=dict(parse_qsl(parts.query, keep_blank_values=True)),
        query=parts.query,
    )
