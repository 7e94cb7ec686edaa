"""Keeps user names and passwords out of everything that is shown, and takes them from where they are kept."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from data.errors import DataError

HIDDEN = "***"
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
"""From the scheme to the *last* @ of the word: passwords hold @, / and #, and showing too little harms nobody."""
_SECRETS = (
    r"(?:^|[?&;/\s_.-])(?:user(?:name|-?id)?|usr|login|[a-z]*passw(?:or)?d|pass(?:phrase|code)?|user-pw|pwd?|psw|auth|"
    r"(?:access|api|auth|session)?[_-]?(?:token|key)|jwt|sig(?:nature)?|secret|credentials?)\d*"
)
"""Names of settings."""
_SETTING = re.compile(
    rf"({_SECRETS}\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s&;!'\"]*)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bBearer\s+)[^\s'\"]+", re.IGNORECASE)
_ADDRESS_USER = re.compile(r"\A([a-z][a-z0-9+.-]*://).*@", re.IGNORECASE | re.DOTALL)
_ADDRESS_SETTING = re.compile(rf"({_SECRETS}=)[^&]*", re.IGNORECASE)
"""Values of an address that stands alone may hold quotes and spaces."""
_PLACE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def redact(text: str) -> str:
    """Hide what a text (an address, a pipeline, an error that quotes one) tells of user names, passwords, tokens."""
    return _BEARER.sub(rf"\1{HIDDEN}", _SETTING.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text)))


def redact_address(text: str) -> str:
    """Hide the same in a text that is one address, whatever its passwords hold: quotes and spaces too."""
    if "://" not in text:
        return redact(text)
    return _ADDRESS_SETTING.sub(rf"\1{HIDDEN}", _ADDRESS_USER.sub(rf"\1{HIDDEN}@", text))


def fill_in(text: str) -> str:
    """Put secrets in their places: ``${NAME}`` is a variable of the environment, ``${file:PATH}`` a file's first line.

    Where NAME is not set but NAME_FILE is, the secret is read from that file, as containers are given them. In an
    address (``scheme://…``) it is percent-encoded, so that it may hold any character.

    Raises:
        DataError: there is no such variable or file; the text names it, and nothing else.
    """
    is_address = re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None

    def secret(place: "re.Match[str]") -> str:
        value = _look_up(place[1])
        return quote(value, safe="") if is_address else value

    return encode_user(_PLACE.sub(secret, text))


def encode_user(address: str) -> str:
    """Percent-encode a password that was written as it is, where the address can be read in one way only.

    ``rtsp://me:a/b#c@camera/1`` has no other reading: ``a`` is no port.
    """
    match = re.fullmatch(r"([a-z][a-z0-9+.-]*://)([^/?#@]*:)([^@]*)@(.*)", address, re.IGNORECASE | re.DOTALL)
    if match is None or not re.search(r"[/?#]", match[3]) or re.match(r"\d+(?:[/?#]|$)", match[3]):
        return address
    return f"{match[1]}{match[2]}{quote(match[3], safe='%')}@{match[4]}"


def _look_up(name: str) -> str:
    if name.startswith("file:"):
        return _first_line(name.removeprefix("file:"), f"${{{name}}}")
    if not _NAME.fullmatch(name):
        raise DataError(f"${{{name}}}: write ${{NAME}} for a variable of the environment, or ${{file:PATH}}")
    if name in os.environ:
        return os.environ[name]
    if f"{name}_FILE" in os.environ:
        return _first_line(os.environ[f"{name}_FILE"], f"{name}_FILE")
    raise DataError(f"${{{name}}}: neither {name} nor {name}_FILE is set in the environment")


def _first_line(path: str, where: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {path} cannot be read ({getattr(error, 'strerror', None) or 'no text'})") from None
    if not lines or not lines[0].strip():
        raise DataError(f"{where}: {path} is empty; put the secret on its first line")
    return lines[0].strip()
