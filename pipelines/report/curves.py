"""Precision over recall, a small drawing for each class."""

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from pipelines.evaluation import Evaluation, Row
from pipelines.figures import count_text
from pipelines.report.stages import role_of
from pipelines.report.style import colour
from pipelines.report.svg import inline, key, plot_style

_DASHES = ("", "6 3", "2 2")
"""Solid for the first row of a choice of sensors, dashed for the next: colour alone never decides."""


def clean(rows: Sequence[Row]) -> list[Row]:
    """Those whose pictures were not made worse."""
    return [row for row in rows if row.kind in ("whole", "absent")]


def line_styles(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The palette's role and the dashes of each row: what saw both sensors, RGB, thermal."""
    seen: dict[str, int] = {}
    styles = []
    for row in rows:
        role = role_of(row.sensors)
        styles.append((role, _DASHES[seen.get(role, 0) % len(_DASHES)]))
        seen[role] = seen.get(role, 0) + 1
    return styles


def curves(evaluation: Evaluation) -> str:
    """Legend and one figure for each class that occurs; pictures that were made worse are left out."""
    shown = clean(evaluation.rows)
    styles = line_styles(shown)
    legend = "".join(f"<li>{key(*style)}{escape(row.name)}</li>" for row, style in zip(shown, styles, strict=True))
    figures = []
    for number, name in enumerate(evaluation.classes):
        rows = [(row, style) for row, style in zip(shown, styles, strict=True) if name in row.per_class]
        if rows:
            figures.append(_figure(number, name, rows))
    return f'<ul class="legend">{legend}</ul>\n<div class="curves">{"".join(figures)}</div>'


def _figure(number: int, name: str, rows: Sequence[tuple[Row, tuple[str, str]]]) -> str:
    scores = ", ".join(f"{row.name} {row.per_class[name]['ap50']:.3f}" for row, _ in rows)
    alt = f"Precision over recall at IoU 0.5 for {name}. AP50: {scores}."
    with plot_style(9):
        drawing = inline(_plot(name, rows), f"pr{number}", alt)
    boxes = count_text("detect", rows[0][0].per_class[name]["count"])
    return f'<figure><h3>{escape(name)} <span class="note">{boxes}</span></h3>{drawing}</figure>'


def _plot(name: str, rows: Sequence[tuple[Row, tuple[str, str]]]) -> Figure:
    figure = Figure((2.9, 2.5), layout="constrained")
    axes = figure.subplots()
    # The first row is drawn last, on top: it is what the page is about.
    for row, (role, dash) in reversed(rows):
        line = (0, tuple(float(part) / 1.7 for part in dash.split())) if dash else "solid"
        shape = row.per_class[name]
        reached = sum(p > 0 for p in shape["precision"])  # beyond the highest recall there is no precision to show
        recall, precision = shape["recall"][:reached], shape["precision"][:reached]
        axes.plot(recall, precision, color=colour(role), linewidth=1.7, linestyle=line)
        axes.plot(recall[-1:], precision[-1:], ".", color=colour(role), markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    ticks = ([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_xticks(*ticks)
    axes.set_yticks(*ticks)
    return figure
