"""The panels of the training drawing: each one figure of the history over the epochs of all stages."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import offset_copy

from fusion.rates import rate
from pipelines.figures import called
from pipelines.report.events import MARKS, events
from pipelines.report.stages import Span, number, rates
from pipelines.report.style import colour

ROLES = {"rgb": "rgb", "thermal": "thermal", "blend": "fused", "head": "head", "objective": "muted"}
"""Part of the model, or what an objective trains beside it → role in the palette."""
DASHES: dict[str, Any] = {
    "fused": "solid", "rgb": (0, (5, 1.5)), "thermal": (0, (1.5, 1)), "head": (0, (5, 1.2, 1.2, 1.2)),
    "muted": (0, (9, 1.5)),
}  # fmt: skip
"""Role → its lines' dashes: colour alone never decides."""
SENSORS = {"rgb": "RGB", "thermal": "thermal"}


@dataclass(frozen=True)
class Format:
    """Size of a drawing in inches and of its text in points."""

    width: float
    unit: float
    """Height of a panel of ratio 1."""
    text: float
    columns: int
    """Most entries of a legend in one line."""
    ticks: int

    def inches(self, stages: Sequence[Span]) -> float:
        """Width of one epoch, near enough to see whether a text fits."""
        return 0.9 * self.width / stages[-1].end


Panel = Callable[[Axes, Sequence[Span], Sequence[str], Format], None]


def loss_panel(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """Training and validation loss; crosses and other marks lie at the latter."""
    values: list[float] = []
    for span in stages:
        for key, role, width in (("loss", "muted", 1.2), ("val_loss", "ink", 1.8)):
            xs, ys = span.points(key)
            values += ys
            axes.plot(xs, ys, color=colour(role), linewidth=width, marker="." if role == "ink" else "", markersize=3.5)
        if span.criterion == "val_loss":
            _ring(axes, span, "ink")
    axes.plot([], [], color=colour("muted"), linewidth=1.2, label="train")
    axes.plot([], [], color=colour("ink"), linewidth=1.8, marker=".", label="validation")
    axes.set_title("Loss")
    if values and min(values) > 0:
        _log_axis(axes, values)
    _events(axes, stages, "val_loss")
    _legend(axes, form)


def score_panel(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """The head's metric, and what each sensor reaches with the other taken away."""
    metric = stages[0].metric
    values, used = [0.0, 1.0], set()
    for span in stages:
        for key, role in ((metric, span.role), (f"{metric}_rgb", "rgb"), (f"{metric}_thermal", "thermal")):
            xs, ys = span.points(key)
            if xs:
                _line(axes, xs, ys, role)
                used.add(role)
                values += ys
        if span.criterion == metric:
            _ring(axes, span, span.role)
    for role, label in {"fused": "both", **SENSORS}.items():
        if role in used:
            _line(axes, [], [], role, label)
    axes.set_title(f"Validation {called(metric)}")
    axes.set_ylim(min(values), max(values))
    if max(values) == 1.0:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    _events(axes, stages, metric)
    _legend(axes, form)


def forgetting_panel(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """What a sensor alone reached at the stage's entry, minus what it reaches now."""
    values = [-0.05, 0.05]
    for sensor in SENSORS:
        for span in stages:
            xs, ys = span.points(f"forgetting_{sensor}")
            _line(axes, xs, ys, sensor)
            values += ys
        _line(axes, [], [], sensor, SENSORS[sensor])
    axes.axhline(0, color=colour("muted"), linewidth=1)
    axes.set_title("Forgetting")
    axes.set_ylim(min(values) * 1.15, max(values) * 1.15)
    _legend(axes, form)


def rate_panel(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """A line at the deepest block's rate, a veil down to the shallowest's; equal rates run side by side."""
    tops: list[float] = []
    seen: list[float] = []
    width = 2.2
    samples = max(1, min(6, 240 // stages[-1].end))
    for span in stages:
        courses = {part: _course(span, part, samples) for part in parts if span.most(part)[0]}
        tops += [top for row in span.epochs for part in courses for top in rates(row, part)]
        for part, (xs, deepest, shallowest) in courses.items():
            seen += [value for value in shallowest if value > 0]
            shade = colour(ROLES[part])
            if not _same(deepest, shallowest):
                axes.fill_between(xs, deepest, shallowest, color=shade, alpha=0.16, linewidth=0)
            equal = [other for other, (_, those, _) in courses.items() if _same(those, deepest)]
            lane = (equal.index(part) - (len(equal) - 1) / 2) * width
            moved = offset_copy(axes.transData, axes.get_figure(root=True), y=lane, units="points")
            axes.plot(xs, deepest, color=shade, linewidth=width, linestyle=DASHES[ROLES[part]], transform=moved)
    for part in parts:
        _line(axes, [], [], ROLES[part], part)
    axes.set_title("Learning rate")
    if tops:
        # A cycle or a cosine ends near nothing: its last piece may leave the panel, the rest keeps its shape.
        _log_axis(axes, [max(min(seen), min(min(tops) / 2, max(tops) / 200)), max(tops)], room=1.5, subs=(1, 3))
    _legend(axes, form)


def _course(span: Span, part: str, samples: int) -> tuple[list[float], list[float], list[float]]:
    """Places, and the rates of the deepest and shallowest block that train: what the trainer set, drawn finely."""
    schedule, total = span.schedule, 1000 * max(span.length, span.stage.epochs)
    xs: list[float] = []
    deepest: list[float] = []
    shallowest: list[float] = []
    for row in span.epochs:
        tops = rates(row, part) or [math.nan]
        for sample in range(samples + 1):
            epoch = int(row["epoch"]) - 1 + sample / samples
            share = rate(schedule, min(round(1000 * epoch), total - 1), total)
            xs.append(span.start + epoch)
            deepest.append(tops[-1] * share)
            shallowest.append(tops[0] * share)
    return xs, deepest, shallowest


def _same(one: Iterable[float], other: Iterable[float]) -> bool:
    """Equal, where NaN equals itself."""
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))


def gradient_panel(axes: Axes, stages: Sequence[Span], parts: Sequence[str], form: Format) -> None:
    """Norms of the gradient before clipping, a line for each part; older runs know only that of all."""
    values: list[float] = []
    keys = gradient_keys(stages)
    for key, (role, label) in keys.items():
        for span in stages:
            points = [(x, y) for x, y in zip(*span.points(key), strict=True) if y > 0]
            _line(axes, [x for x, _ in points], [y for _, y in points], role)
            values += [y for _, y in points]
        _line(axes, [], [], role, label)
    axes.set_title("Gradient norm")
    _log_axis(axes, values, subs=(1, 3))
    _legend(axes, form)


def gradient_keys(stages: Sequence[Span]) -> dict[str, tuple[str, str]]:
    """Key of the history → role and label, for the norms above zero that the run recorded."""
    keys = {f"gradient_norm_{part}": (role, part) for part, role in ROLES.items()}
    found = {key: label for key, label in keys.items() if _any_above_zero(stages, key)}
    if not found and _any_above_zero(stages, "gradient_norm"):
        return {"gradient_norm": ("muted", "all parts")}
    return found


def _any_above_zero(stages: Sequence[Span], key: str) -> bool:
    return any(value > 0 for span in stages for value in span.points(key)[1])


def _line(axes: Axes, xs: Sequence[float], ys: Sequence[float], role: str, label: str | None = None) -> None:
    axes.plot(xs, ys, color=colour(role), linewidth=1.8, linestyle=DASHES[role], label=label)
    if xs:
        axes.plot(xs, ys, ".", color=colour(role), markersize=4)


def _ring(axes: Axes, span: Span, role: str) -> None:
    """Mark the epoch whose weights were handed on."""
    value = number(span.handed_on, span.criterion)
    if value is not None:
        axes.plot([span.place(span.handed_on)], [value], "o", markersize=7, mfc=colour("card"), mec=colour(role),
                  mew=1.6, zorder=5, clip_on=False)  # fmt: skip


def _events(axes: Axes, stages: Sequence[Span], key: str) -> None:
    """Mark what happened at the figure of its epoch; a loss beyond the axis, or that was no number, at the top."""
    low, high = axes.get_ylim()
    for event in events(stages):
        value = number(event.row, key)
        if value is None and key != "val_loss":
            continue
        at = value if value is not None and low <= value <= high else _height(axes, 0.93)
        axes.plot([event.span.place(event.row)], [at], MARKS[event.kind].symbol, markersize=8, mfc="none",
                  mec=colour("ink"), mew=1.6, zorder=6, clip_on=False)  # fmt: skip


def _height(axes: Axes, share: float) -> float:
    """The figure that lies at a share of the panel's height."""
    place = axes.transData.inverted().transform(axes.transAxes.transform((0.0, share)))
    return float(place[1])


def _log_axis(axes: Axes, values: Sequence[float], room: float = 1.5, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(values) / room, max(values) * room)
    decades = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(subs=subs if decades < 3 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_number))


def _number(value: float, _: int) -> str:
    if 0.01 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10**exponent:.2g}e{exponent}"


def _legend(axes: Axes, form: Format) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.01, 0.99), borderpad=0, borderaxespad=0.5,
                    ncols=min(len(handles), form.columns), handlelength=1.7, handletextpad=0.35,
                    columnspacing=0.9)  # fmt: skip
