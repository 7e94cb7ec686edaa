"""Which recipe is best on this data: recipes × seeds, each measured on the same pictures, with intervals."""

import json
from collections.abc import Iterable, Sequence

from data.yaml_file import atomic
from pipelines.compare_cells import Train
from pipelines.compare_effort import duration
from pipelines.compare_jobs import run_cells
from pipelines.compare_plan import plan
from pipelines.compare_request import Request
from pipelines.compare_result import Comparison, Line, against, change_without, summarise
from pipelines.figures import called
from pipelines.report.comparison import write_comparison
from pipelines.train import train as train_for_real

JSON, HTML = "compare.json", "compare.html"


def compare(request: Request, train: Train = train_for_real) -> Comparison:
    """Train and measure what is still missing of recipes × seeds, then write compare.json and compare.html.

    Args:
        request: What was asked for.
        train: What trains a cell.

    Raises:
        DataError: recipes, card, splits or folder do not fit.
        FusionError: a recipe, its weights or a checkpoint does not fit.
        Stopped: Ctrl-C or SIGTERM; the same command goes on.
    """
    cells = plan(request)
    run_cells(cells, request.jobs, train)
    result = summarise(request, cells)
    with atomic(request.out / JSON, "w") as file:
        json.dump(result.as_json(), file, indent=1)
    write_comparison(request.out / HTML, result)
    return result


def text_table(result: Comparison) -> str:
    """The rows as text, with the warnings and what selected what."""
    width = max(len(line.name) for line in result.rows)
    others = list(result.rows[0].others)
    means, base = _columns(called(name) for name in others), f"against {result.base}"
    head = (
        f"{'':{width}}  {called(result.metric) + '  [95 %]':21}  {means}  {base:34}  {'rgb absent':>10}  "
        f"{'thermal absent':>14}  {'steps':>6}  {'time':>7}  {'params':>7}  seeds"
    )
    lines = [f"{result.split} split, {result.pictures} pairs, {result.seeds} seeds", head]
    lines += [_text_row(result, line, width, others) for line in result.rows]
    for effort in result.efforts:
        for one in effort.pretraining:
            lines.append(
                f"{effort.name}: {one.stage} ({one.objective}), {one.epochs} epochs over {one.pictures} pictures "
                "without labels"
            )
    lines += [f"{effort.name}: selected by {effort.selection}" for effort in result.efforts]
    if any(effort.shared_seconds for effort in result.efforts):
        lines.append("* stages taken from another run count with the time that they took there")
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _columns(texts: Iterable[str]) -> str:
    return "  ".join(f"{text:>8}" for text in texts)


def _text_row(result: Comparison, line: Line, width: int, others: Sequence[str]) -> str:
    effort, score = result.effort(line), line.score
    means = _columns(f"{line.mean(name):.3f}" for name in others)
    figures = f"{line.name:{width}}  {score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]  {means}"
    seeds = " ".join(f"{value:.3f}" for value in score.per_seed)
    cost = f"{'':6}  {'':7}  {'':7}"
    if line.absent is None:
        cost = f"{effort.labelled_steps:6g}  {duration(effort):>7}  {effort.parameters / 1e6:6.2f}M"
    without = f"{change_without(line, 'rgb'):>10}  {change_without(line, 'thermal'):>14}"
    return f"{figures}  {against(line):34}  {without}  {cost}  {seeds}"
