"""The page that every report is set in: its head, sections, tables and pictures; nothing of what it tells."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.report.style import stylesheet

_CODE = "command"
"""The fact that is set as code."""


@dataclass(frozen=True)
class Section:
    """A part of the page, which its navigation leads to."""

    name: str
    heading: str
    content: str


def html_page(title: str, about: str, facts: dict[str, str], sections: Iterable[Section]) -> str:
    """A whole page; ``about`` is its lead, ``facts`` what to know of it, ``command`` set as code."""
    links = "".join(f'<a href="#{section.name}">{escape(section.heading)}</a>' for section in sections)
    body = "\n".join(
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n'
        f'<h2 id="{section.name}-title">{escape(section.heading)}</h2>\n{section.content}\n</section>'
        for section in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{stylesheet()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(about)}</p>
<nav aria-label="Sections">{links}</nav>
<dl class="facts">{"".join(_fact(name, value) for name, value in facts.items())}</dl>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _fact(name: str, value: str) -> str:
    if name.lower() == _CODE:
        return f'<div class="wide"><dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd></div>'
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def scroll(label: str, content: str) -> str:
    """Content that may be wider than a phone, to be scrolled by finger or keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">\n{content}\n</div>'


def html_table(label: str, heads: Iterable[str], body: Iterable[str]) -> str:
    """A table that scrolls by itself: ``heads`` are cells, ``body`` rows."""
    rows = "\n".join(body)
    return scroll(label, f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>")


def head(name: str, below: str = "", text: bool = False) -> str:
    """A column's head; ``below`` in small, text to the left, figures to the right."""
    css = ' class="text"' if text else ""
    small = f"<small>{escape(below)}</small>" if below else ""
    return f'<th scope="col"{css}>{escape(name)}{small}</th>'


def name_cell(content: str) -> str:
    """A row's first cell, which names it; ``content`` is HTML."""
    return f'<th scope="row"><span class="name">{content}</span></th>'


def jpeg(picture: NDArray[np.uint8]) -> str:
    """H×W×3 (R, G, B) as the source of an ``<img>``."""
    # Full colour resolution: thin coloured lines would bleed at half.
    how = [
        cv2.IMWRITE_JPEG_QUALITY, 84,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), how)
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
