"""One page that says what a data check found; a single file that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.alignment import REACH, Shift
from data.card import DatasetCard, Sample
from data.check.alignment import LIMIT, Alignment
from data.check.facts import Looker
from data.check.findings import Finding, Level, Report
from data.errors import DataError
from data.images import read_rgb, read_thermal
from data.yaml_file import atomic
from pipelines.live.draw import false_colour
from pipelines.report.shell import Section, head, html_page, html_table, jpeg, name_cell

_WIDTH = 384
_WORST = 6
_MOST = 200
"""Findings of one level on the page; --json has all."""
_LEVELS: dict[Level, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
_EDGE = 97
"""Percentile of edge strength that is drawn brightest."""


def write_sheet(out: Path, card: DatasetCard, report: Report, command: str) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        out: The HTML file.
        card: The data set.
        report: What the check found.
        command: What was typed.
    """
    page = html_page(f"Data check: {card.name}", _lead(report), _facts(card, report, command), _sections(card, report))
    with atomic(out, "w") as file:
        file.write(page)
    return out


def _lead(report: Report) -> str:
    if report.errors:
        return f"{_count(len(report.errors), 'error')} would make training wrong; {_warned(report)}."
    return f"Nothing was found that would make training wrong; {_warned(report)}."


def _warned(report: Report) -> str:
    return f"{_count(len(report.warnings), 'warning')} to look at"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _facts(card: DatasetCard, report: Report, command: str) -> dict[str, str]:
    facts = {"Card": str(card.path), "Tasks": ", ".join(card.tasks()) or "none: no labels"}
    facts["Pairs"] = ", ".join(f"{split} {counts['pairs']:,}" for split, counts in report.splits.items())
    for sensor, sizes in report.sizes.items():
        size, count = next(iter(sizes.items()))
        facts[f"{sensor} size"] = size if len(sizes) == 1 else f"{len(sizes)} sizes, {size} most often ({count})"
    if report.thermal_range is not None and report.thermal_span is not None:
        low, high = report.thermal_range
        narrow, wide = report.thermal_span
        facts[f"Thermal ({card.thermal_spec.unit})"] = f"{low:g} … {high:g}; a frame spans {narrow:g} … {wide:g}"
    if report.box_sides is not None:
        small, median, large = report.box_sides
        facts["Box size (√area, RGB pixels)"] = f"{small:.0f} … {large:.0f}, median {median:.0f}"
    return {**facts, "command": command}


def _sections(card: DatasetCard, report: Report) -> list[Section]:
    sections = []
    for level, heading in _LEVELS.items():
        found = [finding for finding in report.findings if finding.level == level]
        if found:
            sections.append(Section(f"{level}s", heading, _findings(heading, found)))
    if report.alignment is not None:
        sections.append(Section("alignment", "Alignment", _alignment(card, report.alignment)))
    if any(_classes(report)):
        sections.append(Section("classes", "Classes", _class_table(report)))
    return sections


def _findings(label: str, found: Sequence[Finding]) -> str:
    rows = [
        f'<tr>{name_cell(escape(one.kind))}<td class="text" style="white-space: normal; overflow-wrap: anywhere">'
        f"{escape(one.text)}</td></tr>"
        for one in found[:_MOST]
    ]
    more = len(found) - _MOST
    note = f'<p class="note">… and {more:,} more; <code>--json</code> has all.</p>' if more > 0 else ""
    return html_table(label, [head("About"), head("What was found", text=True)], rows) + note


def _classes(report: Report) -> Iterable[tuple[str, str]]:
    """Kinds of labels and their classes, in the order of the card."""
    for counts in report.splits.values():
        for kind in ("boxes", "pixels", "pictures"):
            for name in counts.get(kind, {}):
                yield kind, name


def _class_table(report: Report) -> str:
    heads = [head("Class"), head("Counted", text=True), *(head(split) for split in report.splits)]
    rows = []
    for kind, name in dict.fromkeys(_classes(report)):
        cells = "".join(f"<td>{counts.get(kind, {}).get(name, 0):,}</td>" for counts in report.splits.values())
        rows.append(f'<tr>{name_cell(escape(name))}<td class="text">{kind}</td>{cells}</tr>')
    return html_table("Labels of each class and split", heads, rows)


def _alignment(card: DatasetCard, alignment: Alignment) -> str:
    text = alignment.text()
    note = (
        "Shift at which the directions of edges agree best, for each pair at 640 px width. It counts where the "
        "agreement stands out; rotation, scale and parallax make it stand out less."
    )
    parts = [f"<p>{escape(text[:1].upper() + text[1:])}.</p>", f'<p class="note">{note}</p>']
    if alignment.sure:
        parts.append(_scatter(alignment))
    worst = alignment.worst()[:_WORST]
    if worst:
        farthest = alignment.systematic is not None
        parts.append(f"<h3>{'The farthest pairs' if farthest else 'Pairs that agree least'}</h3>")
        parts.append(
            '<p class="note">Left RGB, right thermal as the card lays it on RGB; below, edges of RGB green, of thermal '
            "red, yellow where they meet: as they lie, and moved back by the estimate.</p>"
        )
        samples = _samples(card, {one for one, _ in worst})
        looker = Looker(card)
        figures = [_figure(samples[one], shift, card, looker) for one, shift in worst if one in samples]
        parts.append(f'<div class="examples">{"".join(figures)}</div>')
    return "\n".join(parts)


def _scatter(alignment: Alignment) -> str:
    """Every sure shift as a dot, the limit as a circle."""
    dots = "".join(
        f'<circle cx="{shift.dx:.1f}" cy="{shift.dy:.1f}" r="0.9" fill="var(--thermal)" fill-opacity="0.5"/>'
        for shift in alignment.shifts.values()
        if shift.sure
    )
    axes = "".join(
        f'<path d="M{-REACH} {at}H{REACH}M{at} {-REACH}V{REACH}" stroke="var(--line)" stroke-width="0.4" fill="none"/>'
        f'<text x="{REACH - 1}" y="{at - 1}" font-size="4.5" text-anchor="end" fill="var(--muted)">{at:+d}</text>'
        for at in (-40, -20, 0, 20, 40)
    )
    limit = f'<circle r="{LIMIT:g}" fill="none" stroke="var(--ink)" stroke-width="0.5"/>'
    label = f"Shifts of {alignment.sure} pairs in pixels at 640 px width; the circle is {LIMIT:g} px"
    return (
        f'<figure style="max-width: 440px"><svg class="plot" role="img" aria-label="{label}" '
        f'viewBox="{-REACH} {-REACH} {2 * REACH} {2 * REACH}">{axes}{dots}{limit}</svg>'
        f'<figcaption class="note">{label}. Right and down: thermal shows things too far right, too low.</figcaption>'
        "</figure>"
    )


def _samples(card: DatasetCard, wanted: set[str]) -> dict[str, Sample]:
    found = {}
    for split in card.splits:
        try:
            found.update({one.id: one for one in card.samples(split) if one.id in wanted})
        except DataError:  # the findings say so
            continue
    return found


def _figure(sample: Sample, shift: Shift, card: DatasetCard, looker: Looker) -> str:
    rgb = read_rgb(sample.rgb)
    lying, hidden = looker.aligned(rgb, read_thermal(sample.thermal, card.thermal_spec), str(sample.thermal))
    height = round(_WIDTH * rgb.shape[0] / rgb.shape[1])
    coloured = false_colour(lying, card.thermal_spec.invalid)
    coloured[hidden] = 0
    views = [_scaled(rgb, height), _scaled(coloured, height)]
    edges = [_edges(views[0]), _edges(views[1])]
    factor = _WIDTH / 640
    moved = np.array([[1, 0, -shift.dx * factor], [0, 1, -shift.dy * factor]], np.float32)
    back = np.asarray(cv2.warpAffine(edges[1], moved, (_WIDTH, height)), np.uint8)
    views += [np.dstack((thermal, edges[0], np.zeros_like(thermal))) for thermal in (edges[1], back)]
    told = ("RGB", "Thermal", "Edges as they lie", "Edges, thermal moved back")
    images = "".join(
        f'<img src="{jpeg(view)}" width="{_WIDTH}" height="{height}" alt="{escape(f"{what}, pair {sample.id}")}">'
        for what, view in zip(told, views, strict=True)
    )
    figures = f"({shift.dx:+.1f}, {shift.dy:+.1f}) px, confidence {shift.confidence:.2f}"
    if shift.other is not None:
        figures += f"; also ({shift.other[0]:+.1f}, {shift.other[1]:+.1f}) px"
    return (
        f'<figure><div class="views">{images}</div><figcaption><strong>{escape(sample.id)}</strong>'
        f'<span class="note">{figures}</span></figcaption></figure>'
    )


def _scaled(view: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if view.shape[1] > _WIDTH else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(view, (_WIDTH, height), interpolation=how), np.uint8)


def _edges(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.GaussianBlur(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), (0, 0), 0.8)
    strength = cv2.magnitude(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
    full = max(float(np.percentile(strength, _EDGE)), 1e-6)
    return np.asarray(np.clip(strength * (255 / full), 0, 255), np.uint8)
