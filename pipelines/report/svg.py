"""A matplotlib figure as SVG inside the page: it takes the page's colours and font, and asks nothing of the network."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

from pipelines.report.style import PALETTE, colour

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def plot_style(size: float) -> Iterator[None]:
    """Within it, figures carry the palette and text of ``size`` points; what matplotlib was set to comes back."""
    ink, muted, line = colour("ink"), colour("muted"), colour("line")
    settings = {
        "font.family": ["DejaVu Sans"],
        "font.size": size,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.labelsize": size,
        "axes.titlesize": size + 0.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "axes.titleweight": "bold",
        "axes.edgecolor": line,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "figure.facecolor": "none",
        "grid.color": line,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": size,
        "lines.solid_capstyle": "butt",
        "svg.fonttype": "none",
        "xtick.color": line,
        "xtick.labelcolor": muted,
        "ytick.color": line,
        "ytick.labelcolor": muted,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    with matplotlib.rc_context(settings):
        yield


def inline(figure: Figure, name: str, alt: str, css: str = "") -> str:
    """Return the figure as an ``<svg>`` element.

    Args:
        figure: Built within ``plot_style``, and inlined within it.
        name: Unique on the page; the names inside the drawing begin with it.
        alt: What the picture says, for those who do not see it.
        css: Further classes of the element.
    """
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    body = re.sub(r'\s*<g id="[^"]*"/>', "", body)
    # A hundredth of a point is not seen, and coordinates are most of the file.
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    body = _renumber(body, name)
    for role, shade in PALETTE.items():
        body = body.replace(shade.light, f"var(--{role})")
    classes = f"plot {css}".strip()
    return f'<svg class="{classes}" role="img" aria-label="{escape(alt)}" viewBox="{box[1]}">{body.strip()}'


def _renumber(body: str, name: str) -> str:
    """Rename what the drawing refers to within itself, and drop the names that nothing refers to.

    Matplotlib's hold memory addresses, which differ from run to run, and are those of other plots on the page.
    """
    referred = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    names = {old: f"{name}-{number}" for number, old in enumerate(referred)}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", body)
    return re.sub(r'(url\(|href=")#([^")]+)', lambda m: f"{m[1]}#{names[m[2]]}", body)


def key(role: str, dash: str = "") -> str:
    """A short sample of a line, for legends in HTML; ``dash`` as in SVG's stroke-dasharray."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        '<svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        f'<path d="M0 5H26" stroke="var(--{role})" stroke-width="3"{dashes}/></svg>'
    )
