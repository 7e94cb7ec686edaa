"""The report's tables: how they are built, and what each stage reached."""

from collections.abc import Iterable, Sequence
from html import escape

from pipelines.figures import called
from pipelines.report.shell import head, html_table, name_cell
from pipelines.report.stages import Row, Span, number

_SENSORS = {"rgb": "RGB", "thermal": "thermal"}


def stage_results(stages: Sequence[Span]) -> str:
    """The training plot's numbers: a line for each stage, at the epoch whose weights it handed on."""
    metric = stages[0].metric
    heads = [head("Stage"), head("Sensors", text=True), head("Objective", text=True)]
    names = ("Epochs", "Handed on", "Train loss", "Validation loss", called(metric), "Pairs/s")
    heads += [*(head(name) for name in names), head("Waiting", "for data")]
    return html_table("Results of each stage", heads, [_stage_row(span) for span in stages])


def _stage_row(span: Span) -> str:
    row = span.handed_on
    figures = [_shown(number(row, name)) for name in ("loss", "val_loss", span.metric)]
    epoch = f"epoch {row['epoch']}" if row["epoch"] else "entry"
    epochs = f"{span.length} of {span.stage.epochs}" if span.length < span.stage.epochs else str(span.length)
    pace, wait = span.average("pairs_per_s"), span.average("wait_share")
    numbers = [epochs, epoch, *figures, _shown(pace, ".1f"), _shown(wait, ".1%")]
    cells = [name_cell(f"{span.number} {escape(span.stage.name)}"), sensors_cell(span.sensors)]
    cells += [f'<td class="text">{escape(span.stage.objective)}</td>', *(f"<td>{text}</td>" for text in numbers)]
    return f"<tr>{''.join(cells)}</tr>"


def _shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def decisions(stages: Iterable[Span]) -> str:
    """What auto unfreezing decided, and on what grounds; nothing where it was not used."""
    found = [(span, row) for span in stages for row in span.rows if row.get("decision")]
    if not found:
        return ""
    metric = called(found[0][0].metric)
    heads = [head("Stage"), head("Epoch"), head("Blocks", "unfrozen"), head("Gain", metric)]
    heads += [head("Standard error"), head("Decision", text=True)]
    table = html_table("Decisions of auto unfreezing", heads, [_decision(span, row) for span, row in found])
    note = "One block deeper while the gain since the last decision is more than one standard error of it."
    return f'<h3>Auto unfreezing</h3>\n<p class="note">{note}</p>\n{table}'


def _decision(span: Span, row: Row) -> str:
    made = row["decision"]
    figures = [str(row["epoch"]), str(made["blocks"]), _shown(made["gain"], "+.4f"), _shown(made["se"], ".4f")]
    cells = [name_cell(f"{span.number} {escape(span.stage.name)}"), *(f"<td>{figure}</td>" for figure in figures)]
    cells.append(f'<td class="text">{"one block deeper" if made["deeper"] else "no deeper"}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def sensors_cell(sensors: Iterable[str]) -> str:
    """A cell that names sensors."""
    return f'<td class="text">{" + ".join(_SENSORS[sensor] for sensor in sensors)}</td>'
