"""The report's tables: how well each row answers, and what each stage reached."""

from collections.abc import Iterable, Sequence
from html import escape

from pipelines.evaluate import Evaluation
from pipelines.evaluate import Row as Measured
from pipelines.report.curves import count_text, line_styles
from pipelines.report.shell import head, html_table, name_cell
from pipelines.report.stages import METRICS, Row, Span, number
from pipelines.report.svg import key

_SENSORS = {"rgb": "RGB", "thermal": "thermal"}


def verdict(evaluation: Evaluation) -> str:
    """The answer in a sentence, favourable or not."""
    measured = f"on {evaluation.pairs:,} pairs of the {evaluation.split} split"
    both = max((row for row in evaluation.rows if len(row.sensors) > 1), key=lambda row: row.ap50, default=None)
    single = max((row for row in evaluation.rows if len(row.sensors) == 1), key=lambda row: row.ap50, default=None)
    if both is None or single is None:
        best = both or single
        return f"{best.name}: AP50 {best.ap50:.3f} {measured}." if best else f"Nothing was measured {measured}."
    gain = round(both.ap50, 3) - round(single.ap50, 3)
    compared = f"{abs(gain):.3f} {'above' if gain > 0 else 'below'}" if round(gain, 3) else "equal to"
    return f"AP50 {both.ap50:.3f} with both sensors {measured}: {compared} the best single sensor ({single.name})."


def accuracy_table(evaluation: Evaluation) -> str:
    """A line for each row, single sensors beside the fused one; the best of each column is bold."""
    rows = evaluation.rows
    counts = {name: shape["count"] for row in rows for name, shape in row.per_class.items()}
    classes = [name for name in evaluation.classes if name in counts]
    figures = [[row.ap50, row.map, *(_class_ap50(row, name) for name in classes)] for row in rows]
    compared = len(rows) > 1
    best = [max(v for v in column if v is not None) if compared else None for column in zip(*figures, strict=True)]
    heads = [head("Model"), head("Sensors", text=True), head("AP50"), head("mAP", "IoU 0.5–0.95")]
    heads += [head(name, count_text(counts[name])) for name in classes]
    styles = line_styles(rows)
    body = [
        _accuracy_row(row, style, [_figure(v, b) for v, b in zip(values, best, strict=True)])
        for row, style, values in zip(rows, styles, figures, strict=True)
    ]
    bold = " Bold: the best of its column." if compared else ""
    note = f'<p class="note">By class: AP50.{bold}</p>'
    return html_table("Accuracy of each model", heads, body) + note


def _class_ap50(row: Measured, name: str) -> float | None:
    return float(row.per_class[name]["ap50"]) if name in row.per_class else None


def _figure(value: float | None, best: float | None) -> str:
    """Three digits; bold when they are those of the best."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return f"<strong>{text}</strong>" if best is not None and text == f"{best:.3f}" else text


def _accuracy_row(row: Measured, style: tuple[str, str], figures: Sequence[str]) -> str:
    ap50, *others = figures
    track = f'<span class="track" style="--of: var(--{style[0]}); --share: {100 * row.ap50:.1f}%"></span>'
    cells = [name_cell(key(*style) + escape(row.name)), sensors_cell(row.sensors)]
    cells += [f'<td>{track}<span class="number">{ap50}</span></td>', *(f"<td>{cell}</td>" for cell in others)]
    css = ' class="both"' if len(row.sensors) > 1 else ""
    return f"<tr{css}>{''.join(cells)}</tr>"


def stage_results(stages: Sequence[Span]) -> str:
    """The training plot's numbers: a line for each stage, at the epoch whose weights it handed on."""
    metric = stages[0].metric
    heads = [head("Stage"), head("Sensors", text=True), head("Objective", text=True)]
    names = ("Epochs", "Handed on", "Train loss", "Validation loss", METRICS.get(metric, metric), "Pairs/s")
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
    metric = METRICS.get(found[0][0].metric, found[0][0].metric)
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
