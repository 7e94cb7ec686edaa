"""What was learnt when: loss, AP50, learning rates and what trained, over the epochs of all stages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from pipelines.report.stages import Span, branches_of
from pipelines.report.style import colour
from pipelines.report.svg import inline, plot_style

ROLES = {"rgb": "rgb", "thermal": "thermal", "blend": "fused", "head": "head"}
"""Part of the model → role in the palette."""


@dataclass(frozen=True)
class _Format:
    """Size of a drawing in inches and of its text in points."""

    width: float
    height: float
    text: float

    def inches(self, stages: Sequence[Span]) -> float:
        """Width of one epoch, near enough to see whether a text fits."""
        return 0.9 * self.width / stages[-1].end


_WIDE = _Format(10.8, 7.4, 9)
_NARROW = _Format(4.3, 8.2, 9.5)


def training_plot(stages: Sequence[Span]) -> str:
    """One drawing for wide screens and one for phones, of which the page shows one."""
    drawn = []
    for form, name, css in ((_WIDE, "training", "wide-only"), (_NARROW, "training-narrow", "narrow")):
        with plot_style(form.text):
            drawn.append(inline(_figure(stages, form), name, _alt(stages), css))
    return "\n".join(drawn)


def _figure(stages: Sequence[Span], form: _Format) -> Figure:
    parts = branches_of(stages)
    figure = Figure((form.width, form.height), layout=ConstrainedLayoutEngine(hspace=0.03, h_pad=0.06))
    ratios = (2.6, 2.2, 2.2, 0.3 + 0.36 * len(parts))
    loss, score, rate, strip = figure.subplots(4, 1, sharex=True, height_ratios=ratios)
    for axes in (loss, score, rate):
        _bands(axes, stages)
    _names(loss, stages, form)
    _loss(loss, stages)
    _score(score, stages)
    _rates(rate, figure, stages, parts)
    _strip(strip, stages, parts, form)
    return figure


def _bands(axes: Axes, stages: Sequence[Span]) -> None:
    for span in stages:
        if span.number % 2:
            axes.axvspan(span.start, span.end, color=colour("band"), linewidth=0, zorder=0)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)


def _names(axes: Axes, stages: Sequence[Span], form: _Format) -> None:
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


def _inches(text: str, form: _Format) -> float:
    """Width of a text, with room about it."""
    return (len(text) + 1) * form.text * 0.6 / 72


def _loss(axes: Axes, stages: Sequence[Span]) -> None:
    values: list[float] = []
    for span in stages:
        first = span.number == 1
        for key, label, role, width in (("loss", "train", "muted", 1.2), ("val_loss", "validation", "ink", 1.8)):
            xs, ys = span.points(key)
            values += ys
            axes.plot(
                xs, ys, color=colour(role), linewidth=width, marker=".", markersize=3.5, label=label if first else None
            )
        if span.criterion == "val_loss":
            _ring(axes, span, "ink")
    axes.set_title("Loss")
    if min(values) > 0:
        _log_axis(axes, values)
    _legend(axes, 2)


def _score(axes: Axes, stages: Sequence[Span]) -> None:
    for span in stages:
        xs, ys = span.points("ap50")
        axes.plot(xs, ys, color=colour(span.role), linewidth=1.8, marker=".", markersize=3.5)
        if span.criterion == "ap50":
            _ring(axes, span, span.role)
    labels = {"rgb": "RGB", "thermal": "thermal", "fused": "both"}
    used = [role for role in labels if any(span.role == role and span.points("ap50")[0] for span in stages)]
    for role in used:
        axes.plot([], [], color=colour(role), linewidth=1.8, label=labels[role])
    axes.set_title("AP50 on validation")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    if used:
        _legend(axes, len(used))


def _ring(axes: Axes, span: Span, role: str) -> None:
    """Mark the epoch whose weights were handed on."""
    at, value = span.place(span.handed_on), float(span.handed_on[span.criterion])
    axes.plot([at], [value], "o", markersize=7, mfc=colour("card"), mec=colour(role), mew=1.6, zorder=5,
              clip_on=False)  # fmt: skip


def _rates(axes: Axes, figure: Figure, stages: Sequence[Span], parts: Sequence[str]) -> None:
    """A line at the deepest block's rate, a veil down to the shallowest's; equal rates run side by side."""
    values: list[float] = []
    width = 2.4
    for span in stages:
        rates = {part: found for part in parts if (found := span.rates(part))}
        for part, found in rates.items():
            values += found
            shade = colour(ROLES[part])
            ends = [span.start, span.end]
            axes.fill_between(ends, [found[0]] * 2, [found[-1]] * 2, color=shade, alpha=0.16, linewidth=0)
            equal = [other for other, those in rates.items() if those[-1] == found[-1]]
            lane = (equal.index(part) - (len(equal) - 1) / 2) * width
            moved = offset_copy(axes.transData, figure, y=lane, units="points")
            axes.plot(ends, [found[-1]] * 2, color=shade, linewidth=width, transform=moved)
    for part in parts:
        axes.plot([], [], color=colour(ROLES[part]), linewidth=width, label=part)
    axes.set_title("Learning rate")
    _log_axis(axes, values, room=3, subs=(1, 3))
    _legend(axes, len(parts))


def _strip(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: _Format) -> None:
    """A row for each part, a cell for each stage."""
    for row, part in enumerate(parts):
        for span in stages:
            _cell(axes, row, part, span, form.inches(stages))
            text = _share_text(*span.share(part), span.length * form.inches(stages), form)
            ink = colour("ink" if span.rates(part) else "muted")
            axes.text(span.middle, row, text, ha="center", va="center_baseline", color=ink, fontsize=form.text - 0.5)
    axes.set_title("Blocks that train")
    axes.set_yticks(range(len(parts)), parts)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.set(ylim=(len(parts) - 0.5, -0.5), xlim=(0, stages[-1].end), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(12 if form is _WIDE else 6, integer=True))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _cell(axes: Axes, row: int, part: str, span: Span, inch: float) -> None:
    """Filled from below by the share of blocks that train."""
    gap, tall = 0.03 / inch, 0.84
    trains, blocks = span.share(part)
    filled = tall * trains / max(1, blocks)
    for height, role, alpha in ((tall, "band", 1.0), (filled, ROLES[part], 0.38)):
        corner = (span.start + gap, row + tall / 2 - height)
        axes.add_patch(Rectangle(corner, span.length - 2 * gap, height, color=colour(role), alpha=alpha, linewidth=0))


def _share_text(trains: int, blocks: int, room: float, form: _Format) -> str:
    if blocks <= 1:
        text = "trains" if trains else "frozen"
        short = "all" if trains else "–"
    else:
        text = f"{trains} of {blocks}" if trains else "frozen"
        short = f"{trains}/{blocks}" if trains else "–"
    return next((t for t in (text, short) if _inches(t, form) < room), "")


def _log_axis(axes: Axes, values: Sequence[float], room: float = 1.5, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(values) / room, max(values) * room)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_number))


def _number(value: float, _: int) -> str:
    if 0.01 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10**exponent:.2g}e{exponent}"


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=columns, borderpad=0, borderaxespad=0.5,
                handlelength=0.9, handletextpad=0.35, columnspacing=0.9)  # fmt: skip


def _alt(stages: Sequence[Span]) -> str:
    parts = []
    for span in stages:
        trained = ", ".join(part for part in ROLES if span.rates(part)) or "nothing of the model"
        value = f"{span.criterion} {span.handed_on[span.criterion]:.3f}"
        parts.append(f"{span.stage.name}, {span.length} epochs, trains {trained}, best {value}")
    return "Loss, AP50, learning rates and what trains, over the epochs. " + "; ".join(parts) + "."
