"""Measures a trained run or a bundle on a split of a card; one row for each thing that is done to the pairs."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.card import DatasetCard
from data.errors import DataError
from data.pairs import Truth, load_pair
from data.prepare import Prepared, Preparer
from data.sample import Sample, tell_empty
from fusion.heads import metric_for
from pipelines.evaluation import Evaluation, Example, Row, table
from pipelines.robustness import Change, Condition, choose, mean
from pipelines.subject import Subject, open_subject

__all__ = ["Evaluation", "Example", "Row", "evaluate", "measure", "open_subject", "table"]


class _Pass:
    """One look at all pairs of a split, all of them changed in one way."""

    def __init__(self, subject: Subject, condition: Condition, change: Change) -> None:
        self.subject, self.condition, self.change = subject, condition, change
        self.metric = metric_for(subject.task, subject.classes)

    def look(self, sample: Sample, pair: Prepared, truth: Truth, preparer: Preparer) -> Example:
        """Answer for one pair, and count what was answered."""
        inputs = preparer.inputs
        seen = self.change(pair, sample.id, inputs)
        answer = self.subject.predict(seen)
        self.metric.update(answer, truth)
        words = self.condition.words
        return Example(sample.id, seen.rgb, seen.thermal, answer, truth, inputs.thermal.invalid, words)


def evaluate(
    path: Path,
    card: DatasetCard,
    split: str,
    without: Sequence[str] | None = None,
    examples: int = 0,
    provider: str | None = None,
    degrade: Iterable[str] = (),
    shift: Iterable[float] = (),
) -> Evaluation:
    """Measure a run or a bundle: ``measure`` on what ``open_subject`` opens with ``provider``."""
    return measure(open_subject(path, provider), card, split, without, examples, degrade, shift)


def measure(
    subject: Subject,
    card: DatasetCard,
    split: str,
    without: Sequence[str] | None = None,
    examples: int = 0,
    degrade: Iterable[str] = (),
    shift: Iterable[float] = (),
) -> Evaluation:
    """Measure a model; each pair is read once, whatever is done to it.

    Args:
        subject: The model.
        card: The data set; its classes and inputs must be those of the model.
        split: Name of a labelled split.
        without: Sensors to leave out, one row for each; None: a row with all sensors and one without each.
        examples: Number of pairs, spread over the split, to keep with their answers for a picture; of each further row
            one is kept.
        degrade: Names of data.augment.degrade.DEGRADATIONS, or ``all``: a row for each.
        shift: Pixels of the delivered RGB picture by which thermal is moved: a row for each, the mean over four
            directions.

    Raises:
        DataError: classes, sizes or thermal unit of card and model differ, the split has no labels for the model's
            task, a row does not fit the model, or a pair has no sensor that a row is measured with.
    """
    conditions = choose(subject.name, subject.sensors, without, shift, degrade)
    subject.require_fits(card)
    samples = _labelled(card, split, subject.task)
    _require_sensors(card, split, samples, conditions)
    result = Evaluation(str(card.path), split, len(samples), subject.classes, subject.task)
    passes = {condition.words: [_Pass(subject, condition, c) for c in condition.changes] for condition in conditions}
    shown = {round(i * (len(samples) - 1) / max(1, examples - 1)) for i in range(examples)}
    result.examples = _look(subject, card, samples, [one for those in passes.values() for one in those], shown)
    for condition in conditions:
        metrics = [one.metric for one in passes[condition.words]]
        result.records.append([record for metric in metrics for record in metric.records])
        result.rows.append(_row(subject, condition, [metric.compute() for metric in metrics]))
    return result


def _labelled(card: DatasetCard, split: str, task: str) -> list[Sample]:
    samples = card.samples(split)
    unlabelled = next((sample.id for sample in samples if not sample.has(task)), None)
    if unlabelled is not None:
        raise DataError(f"{card.path}: pair '{unlabelled}' of split '{split}' has no labels to measure against")
    if task == "detect" and (warning := tell_empty(samples)):
        print(warning, file=sys.stderr)
    return samples


def _require_sensors(card: DatasetCard, split: str, samples: Sequence[Sample], conditions: Sequence[Condition]) -> None:
    """Raise DataError where a row leaves a pair nothing to see: said before minutes of measuring."""
    for condition in conditions:
        bare = next((sample for sample in samples if not {*sample.sensors} & {*condition.sensors}), None)
        if bare is not None:
            raise DataError(
                f"{card.path}: pair '{bare.id}' of split '{split}' has only {bare.sensors[0]}, so that it cannot be "
                f"measured with {' and '.join(condition.sensors)} alone; leave it out of the split, or ask by "
                "--without for a row that it has a sensor for"
            )


def _look(
    subject: Subject, card: DatasetCard, samples: Sequence[Sample], passes: Sequence[_Pass], shown: set[int]
) -> list[Example]:
    """Go through the pairs; keep the chosen ones of the first pass, then the first of each other row."""
    preparer = subject.preparer(card)
    kept: list[Example] = []
    others: dict[str, Example] = {}
    described = f"{subject.name}: {len(passes)} looks" if len(passes) > 1 else subject.name
    for index, sample in enumerate(tqdm(samples, unit="pair", desc=described, leave=False, dynamic_ncols=True)):
        pair, truth = load_pair(sample, preparer, subject.sensors, subject.task, card)
        for one in passes:
            example = one.look(sample, pair, truth, preparer)
            if one is passes[0] and index in shown:
                kept.append(example)
            elif shown and index == min(shown):
                others.setdefault(example.under, example)
    return kept + list(others.values())


def _row(subject: Subject, condition: Condition, computed: Sequence[dict[str, Any]]) -> Row:
    """What was computed for each way of changing the pairs, as one row."""
    figures = mean(computed)
    parts = {key: figures[key] for key in ("per_class", "per_size", "confusion") if key in figures}
    metrics = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
    name = "fused" if len(subject.sensors) == 2 else f"{subject.sensors[0]} only"
    if condition.words:
        name = f"{name}, {condition.words}"
    return Row(name, condition.sensors, metrics, **parts, kind=condition.kind)
