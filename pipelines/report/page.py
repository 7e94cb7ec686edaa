"""One page that says what a run learnt and how well it answers; a single file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from data.yaml_file import atomic
from fusion.recipe import Recipe
from pipelines.evaluation import Evaluation
from pipelines.report.accuracy import accuracy_table, class_table, size_table, verdict
from pipelines.report.confusion import confusion
from pipelines.report.curves import curves
from pipelines.report.events import event_list
from pipelines.report.panels import gradient_keys
from pipelines.report.pictures import pictures
from pipelines.report.pretraining import pretraining
from pipelines.report.robustness import robustness
from pipelines.report.shell import Section, html_page, scroll
from pipelines.report.stages import Span, spans
from pipelines.report.tables import decisions, stage_results
from pipelines.report.training import training_plot


def write_run_report(
    out: Path,
    title: str,
    history: list[dict[str, Any]],
    recipe: Recipe,
    evaluation: Evaluation | None,
    facts: dict[str, str],
    stage_table: str,
    drawn: Path | None = None,
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
        drawn: Folder of the pictures that pretraining stages left; it may be missing.

    Returns:
        ``out``.
    """
    sections = _sections(spans(history, recipe), recipe, evaluation, stage_table, drawn)
    page = html_page(title, recipe.about, facts, sections)
    with atomic(out, "w") as file:
        file.write(page)
    return out


def write_evaluation(out: Path, title: str, about: str, evaluation: Evaluation, facts: dict[str, str]) -> Path:
    """Write a page of what was measured alone, whole or not at all; return ``out``."""
    page = html_page(title, about, facts, [*_measured(evaluation), *_shown(evaluation)])
    with atomic(out, "w") as file:
        file.write(page)
    return out


def _sections(
    stages: Sequence[Span], recipe: Recipe, evaluation: Evaluation | None, stage_table: str, drawn: Path | None
) -> list[Section]:
    sections = [] if evaluation is None else _measured(evaluation)
    if stages:
        sections.append(Section("training", "Training", _training(stages, recipe)))
    if drawn is not None and (made := pretraining(stages, drawn)):
        sections.append(Section("pretraining", "Pretraining", made))
    sections += [] if evaluation is None else _shown(evaluation)
    text = scroll("Stages as text", f"<pre>{escape(stage_table)}</pre>")
    return [*sections, Section("stages", "What trains in each stage", text)]


def _measured(evaluation: Evaluation) -> list[Section]:
    """How well it answers, and what is left of it when something is wrong with the pairs."""
    lead = f'<p class="lead">{escape(verdict(evaluation))}</p>\n'
    sections = [Section("accuracy", "Accuracy", lead + accuracy_table(evaluation) + size_table(evaluation))]
    if any(row.kind != "whole" for row in evaluation.rows):
        sections.append(Section("robustness", "Robustness", robustness(evaluation)))
    return sections


def _shown(evaluation: Evaluation) -> list[Section]:
    """What is behind the figures: curves or confusion, and pictures."""
    sections = []
    if evaluation.task == "detect":
        note = '<p class="note">At an IoU of 0.5, precision interpolated as COCO does.</p>\n'
        sections.append(Section("curves", "Precision and recall", note + curves(evaluation)))
    if taken := confusion(evaluation):
        note = '<p class="note">Share of each true class, by what was answered.</p>\n'
        sections.append(Section("confusion", "What was taken for what", note + taken))
    if classes := class_table(evaluation):
        sections.append(Section("classes", "Precision and recall", classes))
    if evaluation.examples:
        note = '<p class="note">Pairs spread over the split, as the model saw them; thermal in false colours.</p>\n'
        sections.append(Section("predictions", "Predictions", note + pictures(evaluation)))
    return sections


def _training(stages: Sequence[Span], recipe: Recipe) -> str:
    plot = f'<p class="note">{_legend(stages, recipe)}</p>\n{training_plot(stages)}\n'
    return plot + event_list(stages) + stage_results(stages) + decisions(stages)


def _legend(stages: Sequence[Span], recipe: Recipe) -> str:
    """How to read the panels that are there."""
    chosen = "the last" if recipe.select == "last" else "its best on validation, the entry included"
    told = [f"Rings: the epoch whose weights a stage hands on, {chosen}."]
    if any(span.points(f"{span.metric}_{sensor}")[0] for span in stages for sensor in span.sensors):
        told.append(
            "In a stage of both sensors, the curves of one are the same model’s answer with the other taken away: what "
            "lies between them and the curve of both is what the other carries."
        )
    if any(span.points(f"forgetting_{sensor}")[0] for span in stages for sensor in span.sensors):
        told.append("Forgetting: what one sensor alone reached at the stage’s entry minus now: above 0 is unlearnt.")
    told.append("Rates follow the schedule; a veil reaches from a branch’s deepest block down to its shallowest.")
    if gradient_keys(stages):
        told.append("Gradient norms: mean over the epoch, before clipping.")
    told.append("Blocks: filled by the share that trains; the rest is frozen.")
    return " ".join(told)
