"""How well each row answers: the verdict, the table of all rows, and what there is of classes and sizes."""

from collections.abc import Iterator, Sequence
from html import escape

from pipelines.evaluation import Evaluation, Row
from pipelines.figures import BELOW, BY_CLASS, COUNTED, SIZES, begins, called, count_text
from pipelines.report.curves import clean, line_styles
from pipelines.report.shell import head, html_table, name_cell
from pipelines.report.stages import role_of
from pipelines.report.svg import key
from pipelines.report.tables import sensors_cell

_NO_KEY = '<span class="key"></span>'


def verdict(evaluation: Evaluation) -> str:
    """The answer in a sentence or two, favourable or not."""
    measured = f"on {evaluation.pairs:,} pairs of the {evaluation.split} split"
    name = called(next(iter(evaluation.metrics), ""))
    rows = clean(evaluation.rows)
    both = max((row for row in rows if len(row.sensors) > 1), key=lambda row: row.main, default=None)
    single = max((row for row in rows if len(row.sensors) == 1), key=lambda row: row.main, default=None)
    if both is None or single is None:
        best = both or single
        told = f"{best.name}: {name} {best.main:.3f} {measured}." if best else f"Nothing was measured {measured}."
        return told + _worst(evaluation)
    gain = round(both.main, 3) - round(single.main, 3)
    compared = f"{abs(gain):.3f} {'above' if gain > 0 else 'below'}" if round(gain, 3) else "equal to"
    told = f"{begins(name)} {both.main:.3f} with both sensors {measured}"
    return f"{told}: {compared} the best single sensor ({single.name}).{_worst(evaluation)}"


def _worst(evaluation: Evaluation) -> str:
    """What costs the first model most, of what its pictures were made worse by."""
    rows = list(zip(evaluation.rows, evaluation.changes(), strict=True))
    end = next((place for place, (row, _) in enumerate(rows) if place and row.kind == "whole"), len(rows))
    costs = [(change, row) for row, change in rows[:end] if row.kind in ("shift", "degraded") and change is not None]
    if not costs:
        return ""
    change, row = min(costs, key=lambda pair: pair[0])
    if round(change, 3) >= 0:
        return " None of the disturbances costs anything."
    return f" Of the disturbances, the worst is “{row.name}”: {change:+.3f}."


def accuracy_table(evaluation: Evaluation) -> str:
    """A line for each row, single sensors beside the fused one; the best of each column is bold."""
    rows, classes = evaluation.rows, evaluation.class_names
    kind, title = BY_CLASS[evaluation.task]
    by_class = [[row.per_class.get(name, {}).get(kind) for name in classes] for row in rows]
    figures = [[*row.metrics.values(), *values] for row, values in zip(rows, by_class, strict=True)]
    compared = len(rows) > 1
    best = [
        max((v for v in column if v is not None), default=None) if compared else None
        for column in zip(*figures, strict=True)
    ]
    changes = [f"{change:+.3f}" if change is not None else "" for change in evaluation.changes()]
    heads = [head("Model"), head("Sensors", text=True)]
    heads += [head(called(name), BELOW.get(name, "")) for name in evaluation.metrics]
    heads += [head("Change", called(evaluation.metrics[0]))] if any(changes) else []
    heads += [head(name, _count(evaluation, name)) for name in classes]
    body = []
    keys = dict(zip([id(row) for row in clean(rows)], line_styles(clean(rows)), strict=True))
    for row, values, change in zip(rows, figures, changes, strict=True):
        cells = [_figure(v, b) for v, b in zip(values, best, strict=True)]
        cells[len(row.metrics) : len(row.metrics)] = [change] if any(changes) else []
        body.append(_row(row, keys.get(id(row)), cells))
    bold = " Bold: the best of its column." if compared else ""
    change = " Change: against the same model with nothing done to the pairs." if any(changes) else ""
    note = f'<p class="note">By class: {title}.{bold}{change}{_absent(evaluation)}</p>'
    return html_table("Accuracy of each model", heads, body) + note


def _absent(evaluation: Evaluation) -> str:
    """Classes that a mean leaves out."""
    missing = [name for name in evaluation.classes if name not in evaluation.class_names]
    return f" Not in this split, so in no mean: {escape(', '.join(missing))}." if missing and evaluation.rows else ""


def _count(evaluation: Evaluation, name: str) -> str:
    """How much of a class there is in truth."""
    counted = COUNTED[evaluation.task][0]
    counts = [row.per_class[name][counted] for row in evaluation.rows if counted in row.per_class.get(name, {})]
    return count_text(evaluation.task, int(counts[0])) if counts else ""


def _figure(value: float | None, best: float | None) -> str:
    """Three digits; bold when they are those of the best."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return f"<strong>{text}</strong>" if best is not None and text == f"{best:.3f}" else text


def _row(row: Row, style: tuple[str, str] | None, figures: Sequence[str]) -> str:
    """A line; one whose curves are drawn carries their key, others room for it."""
    main, *others = figures
    track = f'<span class="track" style="--of: var(--{role_of(row.sensors)}); --share: {100 * row.main:.1f}%"></span>'
    cells = [name_cell((key(*style) if style else _NO_KEY) + escape(row.name)), sensors_cell(row.sensors)]
    cells += [f'<td>{track}<span class="number">{main}</span></td>', *(f"<td>{cell}</td>" for cell in others)]
    css = ' class="both"' if len(row.sensors) > 1 and row.kind == "whole" else ""
    return f"<tr{css}>{''.join(cells)}</tr>"


def size_table(evaluation: Evaluation) -> str:
    """The mAP of small, medium and large objects, of which there are some; nothing where there are no boxes."""
    if not any(row.per_size for row in evaluation.rows):
        return ""
    sizes = [size for size in SIZES if any(size in row.per_size for row in evaluation.rows)]
    heads = [head("Model"), *(head(size, f"mAP, {SIZES[size]}") for size in sizes)]
    body = [_by_size(row, sizes) for row in evaluation.rows]
    return f"<h3>By size of the object</h3>\n{html_table('Accuracy by size of the object', heads, body)}"


def _by_size(row: Row, sizes: Sequence[str]) -> str:
    cells = "".join(f"<td>{_figure(row.per_size.get(size), None)}</td>" for size in sizes)
    return f"<tr>{name_cell(escape(row.name))}{cells}</tr>"


def class_table(evaluation: Evaluation) -> str:
    """Precision, recall, F1 and count of each class of pictures, for each model; nothing for other tasks."""
    if evaluation.task != "classify":
        return ""
    heads = [head("Class"), *(head(name) for name in ("Precision", "Recall", "F1", "Pictures"))]
    return "\n".join(
        f"<h3>{escape(row.name)}</h3>\n{html_table(f'Classes, {row.name}', heads, _classes(row))}"
        for row in evaluation.rows
        if row.kind == "whole"
    )


def _classes(row: Row) -> Iterator[str]:
    for name, found in row.per_class.items():
        figures = "".join(f"<td>{found[part]:.3f}</td>" for part in ("precision", "recall", "f1"))
        yield f"<tr>{name_cell(escape(name))}{figures}<td>{int(found['count']):,}</td></tr>"
