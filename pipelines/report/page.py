"""One page that says what a run learnt and how well it answers; a single file that needs nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from data.yaml_file import atomic
from fusion.recipe import Recipe
from pipelines.evaluate import Evaluation
from pipelines.report.curves import curves
from pipelines.report.pictures import pictures
from pipelines.report.stages import Span, spans
from pipelines.report.style import stylesheet
from pipelines.report.tables import accuracy_table, scroll, stage_results, verdict
from pipelines.report.training import training_plot

_CODE = "command"
"""The fact that is set as code."""


@dataclass(frozen=True)
class _Section:
    name: str
    heading: str
    content: str


def write_run_report(
    out: Path,
    title: str,
    history: list[dict[str, Any]],
    recipe: Recipe,
    evaluation: Evaluation | None,
    facts: dict[str, str],
    stage_table: str,
) -> Path:
    """Write the report of a run, whole or not at all.

    Args:
        out: The HTML file.
        title: The page's heading.
        history: Rows of ``fusion.trainer``; the section about training stays out when it is empty.
        recipe: What was trained.
        evaluation: Rows and examples of a split; None: not measured.
        facts: What to know of the run: recipe, data set, seed, machine, versions; ``command`` is set as code.
        stage_table: What ``rgbt recipe show`` prints.

    Returns:
        ``out``.
    """
    sections = _sections(spans(history, recipe), recipe, evaluation, stage_table)
    page = _page(title, recipe.about, facts, sections)
    with atomic(out, "w") as file:
        file.write(page)
    return out


def _sections(
    stages: Sequence[Span], recipe: Recipe, evaluation: Evaluation | None, stage_table: str
) -> list[_Section]:
    sections = []
    if evaluation is not None:
        lead = f'<p class="lead">{escape(verdict(evaluation))}</p>\n'
        sections.append(_Section("accuracy", "Accuracy", lead + accuracy_table(evaluation)))
    if stages:
        sections.append(_Section("training", "Training", _training(stages, recipe)))
    if evaluation is not None:
        note = '<p class="note">At an IoU of 0.5, precision interpolated as COCO does.</p>\n'
        sections.append(_Section("curves", "Precision and recall", note + curves(evaluation)))
    if evaluation is not None and evaluation.examples:
        note = '<p class="note">Pairs spread over the split, as the model saw them; thermal in false colours.</p>\n'
        sections.append(_Section("predictions", "Predictions", note + pictures(evaluation)))
    text = scroll("Stages as text", f"<pre>{escape(stage_table)}</pre>")
    return [*sections, _Section("stages", "What trains in each stage", text)]


def _training(stages: Sequence[Span], recipe: Recipe) -> str:
    chosen = "the last" if recipe.select == "last" else "its best on validation, the entry included"
    note = (
        f'<p class="note">Rings: the epoch whose weights a stage hands on, {chosen}. Rates are those at the '
        "schedule’s top; a veil reaches from a branch’s deepest block down to its shallowest. Blocks: filled by the "
        "share that trains; the rest is frozen.</p>\n"
    )
    return f"{note}{training_plot(stages)}\n{stage_results(stages)}"


def _page(title: str, about: str, facts: dict[str, str], sections: Iterable[_Section]) -> str:
    links = "".join(f'<a href="#{section.name}">{escape(section.heading)}</a>' for section in sections)
    body = "\n".join(
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n'
        f'<h2 id="{section.name}-title">{escape(section.heading)}</h2>\n{section.content}\n</section>'
        for section in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{stylesheet()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(about)}</p>
<nav aria-label="Sections">{links}</nav>
<dl class="facts">{"".join(_fact(name, value) for name, value in facts.items())}</dl>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _fact(name: str, value: str) -> str:
    if name.lower() == _CODE:
        return f'<div class="wide"><dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd></div>'
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
