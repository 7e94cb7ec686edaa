"""What was taken for what: true classes down, answers across."""

from collections.abc import Sequence
from html import escape

from fusion.segment import BACKGROUND
from pipelines.evaluation import Evaluation, Row
from pipelines.figures import COUNTED
from pipelines.report.shell import head, html_table, name_cell


def confusion(evaluation: Evaluation) -> str:
    """A matrix for each model with nothing done to the pairs; nothing where boxes are the answer."""
    names = list(evaluation.classes)
    names = [BACKGROUND, *names] if evaluation.task == "segment" else names
    found = [row for row in evaluation.rows if row.kind == "whole" and row.confusion] or evaluation.rows[:1]
    return "\n".join(_matrix(row, names, evaluation.task) for row in found if row.confusion)


def _matrix(row: Row, names: Sequence[str], task: str) -> str:
    counted = COUNTED[task][2]
    heads = [head("True class"), *(head(name) for name in names), head("In truth", counted)]
    assert row.confusion is not None
    body = [_line(name, place, counts) for place, (name, counts) in enumerate(zip(names, row.confusion, strict=True))]
    return f"<h3>{escape(row.name)}</h3>\n{html_table(f'Confusion, {row.name}', heads, body)}"


def _line(name: str, place: int, counts: Sequence[float]) -> str:
    """Shares of a true class; what was right stands on the diagonal in another colour than what was wrong."""
    total = sum(counts)
    cells = []
    for other, count in enumerate(counts):
        share = count / total if total else 0.0
        role = "fused" if other == place else "thermal"
        tint = f' style="background: color-mix(in srgb, var(--{role}) {60 * share:.0f}%, transparent)"'
        text = "–" if not total else f"{100 * share:.1f} %" if count else ""
        cells.append(f"<td{tint if share else ''}>{text}</td>")
    return f"<tr>{name_cell(escape(name))}{''.join(cells)}<td>{total:,.0f}</td></tr>"
