"""What was learnt when: losses, metric, rates, gradients and what trained, over the epochs of all stages."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipelines.figures import called
from pipelines.report.events import MARKS, events
from pipelines.report.panels import (
    ROLES,
    SENSORS,
    Format,
    Panel,
    forgetting_panel,
    gradient_keys,
    gradient_panel,
    loss_panel,
    rate_panel,
    score_panel,
)
from pipelines.report.stages import BRANCHES, Period, Span, number, parts_of
from pipelines.report.style import colour
from pipelines.report.svg import inline, plot_style

_WIDE = Format(width=10.8, unit=0.84, text=9, columns=6, ticks=12)
_NARROW = Format(width=4.3, unit=0.94, text=9.5, columns=3, ticks=6)


def training_plot(stages: Sequence[Span]) -> str:
    """One drawing for wide screens and one for phones, of which the page shows one."""
    drawn = []
    for form, name, css in ((_WIDE, "training", "wide-only"), (_NARROW, "training-narrow", "narrow")):
        with plot_style(form.text):
            drawn.append(inline(_figure(stages, form), name, _alt(stages), css))
    return "\n".join(drawn)


def _figure(stages: Sequence[Span], form: Format) -> Figure:
    parts = parts_of(stages)
    panels = _panels(stages, parts)
    ratios = [ratio for _, ratio in panels]
    layout = ConstrainedLayoutEngine(hspace=0.03, h_pad=0.06)
    figure = Figure((form.width, form.unit * sum(ratios)), layout=layout)
    grid = figure.subplots(len(panels), 1, sharex=True, height_ratios=ratios)
    for axes, (panel, _) in zip(grid, panels, strict=True):
        if panel is not _strip:
            _bands(axes, stages)
        panel(axes, stages, parts, form)
    _names(figure.axes[0], stages, form)
    return figure


def _panels(stages: Sequence[Span], parts: Sequence[str]) -> list[tuple[Panel, float]]:
    """The panels that the run has figures for, from above, and their heights."""
    panels: list[tuple[Panel, float]] = [(loss_panel, 2.6)]
    if any(span.points(span.metric)[0] for span in stages):
        panels.append((score_panel, 2.2))
    if any(span.points(f"forgetting_{sensor}")[0] for span in stages for sensor in SENSORS):
        panels.append((forgetting_panel, 1.7))
    panels.append((rate_panel, 2.2))
    if gradient_keys(stages):
        panels.append((gradient_panel, 1.9))
    return [*panels, (_strip, 0.3 + 0.36 * len(parts))]


def _bands(axes: Axes, stages: Sequence[Span]) -> None:
    for span in stages:
        if span.number % 2:
            axes.axvspan(span.start, span.end, color=colour("band"), linewidth=0, zorder=0)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)


def _names(axes: Axes, stages: Sequence[Span], form: Format) -> None:
    """Number and name above each band, in one line or two; the number alone where the name does not fit."""
    for span in stages:
        number, name = str(span.number), span.stage.name
        room = span.length * form.inches(stages)
        choices = (f"{number}  {name}", f"{number}  " + name.replace("-", "-\n", 1), number)
        label = next((c for c in choices if _inches(max(c.split("\n"), key=len), form) < room), number)
        axes.annotate(
            label,
            (span.middle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, form.text * 2.1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=colour("ink"),
        )


def _inches(text: str, form: Format) -> float:
    """Width of a text, with room about it."""
    return (len(text) + 1) * form.text * 0.6 / 72


def _strip(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """A row for each part, a cell for each period in which the same of its blocks train."""
    inch = form.inches(stages)
    for row, part in enumerate(parts):
        for span in stages:
            for period in span.periods(part):
                _cell(axes, row, part, period, _gaps(period, span, inch))
                text = _share_text(period, inch, form)
                ink = colour("ink" if period.trains else "muted")
                middle = (period.start + period.end) / 2
                axes.text(middle, row, text, ha="center", va="center_baseline", color=ink, fontsize=form.text - 0.5)
    axes.set_title("Blocks that train")
    axes.set_yticks(range(len(parts)), parts)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.set(ylim=(len(parts) - 0.5, -0.5), xlim=(0, stages[-1].end), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(form.ticks, integer=True))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _gaps(period: Period, span: Span, inch: float) -> tuple[float, float]:
    """Room left of and right of a cell: more between stages than within one."""
    wide, thin = 0.03 / inch, 0.007 / inch
    return wide if period.start == span.start else thin, wide if period.end == span.end else thin


def _cell(axes: Axes, row: int, part: str, period: Period, gaps: tuple[float, float]) -> None:
    """Filled from below by the share of blocks that train."""
    tall = 0.84
    filled = tall * period.trains / max(1, period.blocks)
    for height, role, alpha in ((tall, "band", 1.0), (filled, ROLES[part], 0.38)):
        corner = (period.start + gaps[0], row + tall / 2 - height)
        width = period.end - period.start - sum(gaps)
        axes.add_patch(Rectangle(corner, width, height, color=colour(role), alpha=alpha, linewidth=0))


def _share_text(period: Period, inch: float, form: Format) -> str:
    trains, blocks = period.trains, period.blocks
    choices = ["frozen", "–"]
    if trains:
        choices = ["trains", "all"] if blocks == 1 else [f"{trains} of {blocks}", f"{trains}/{blocks}", str(trains)]
    room = (period.end - period.start) * inch
    return next((text for text in choices if _inches(text, form) < room), "")


def _alt(stages: Sequence[Span]) -> str:
    metric = called(stages[0].metric)
    told = "; ".join(_told(span) for span in stages)
    return f"Loss, {metric}, learning rates and what trains, over the epochs. {told}."


def _told(span: Span) -> str:
    trained = ", ".join(_unfreezing(span, part) for part in BRANCHES if span.most(part)[0]) or "nothing of the model"
    said = [span.stage.name, f"{span.length} epochs", f"trains {trained}", f"hands on epoch {span.handed_on['epoch']}"]
    alone = {f"{span.metric}_{sensor}": f"{name} alone" for sensor, name in SENSORS.items()}
    for key, label in {span.criterion: span.criterion, **alone}.items():
        value = number(span.handed_on, key)
        said += [] if value is None else [f"{label} {value:.3f}"]
    return ", ".join(said + [f"epoch {event.row['epoch']} {MARKS[event.kind].title}" for event in events([span])])


def _unfreezing(span: Span, part: str) -> str:
    """The part, and how many of its blocks train where that changes within the stage."""
    counts = [str(period.trains) for period in span.periods(part)]
    return part if len(counts) == 1 else f"{part} ({', then '.join(counts)} blocks)"
