"""The page's files, each with the policy that lets its own script and style run and nothing else."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One HTML file with everything in it."""

    text: str

    @classmethod
    def read(cls, name: str) -> "Page":
        """Read a file of this package."""
        return cls(files("pipelines.live.web").joinpath(name).read_text(encoding="utf-8"))

    @property
    def policy(self) -> str:
        """Content-Security-Policy: inline script and style by their hashes, requests to the server itself only."""
        allowed: dict[str, list[str]] = {"script": [], "style": []}
        for kind, body in _INLINE.findall(self.text):
            digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
            allowed[kind].append(f"'sha256-{digest}'")
        return "; ".join(
            (
                "default-src 'none'",
                *(f"{kind}-src " + (" ".join(hashes) or "'none'") for kind, hashes in allowed.items()),
                "img-src 'self' data:",
                "connect-src 'self'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
            )
        )

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with ``{{NAME}}`` replaced; not inside script or style, whose hashes would change."""
        text = self.text
        for name, value in values.items():
            text = text.replace(f"{{{{{name}}}}}", value)
        return text
