"""What the guard, early stop and auto unfreezing did: marks on the curves, and the reasons beneath them."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from pipelines.report.stages import Row, Span


@dataclass(frozen=True)
class Mark:
    """How a kind of event is marked: the same shape in the plot and in the list."""

    title: str
    symbol: str
    """Of matplotlib."""
    path: str
    """The same in SVG, in a box of 12 × 12."""


MARKS = {
    "rolled_back": Mark("rolled back", "x", "M2 2L10 10M10 2L2 10"),
    "warning": Mark("warning", "^", "M6 2L10.5 10H1.5Z"),
    "stopped": Mark("stopped", "s", "M2.5 2.5H9.5V9.5H2.5Z"),
}
"""Key of a history row → its mark; the row's text says why."""


@dataclass(frozen=True)
class Event:
    """Something that happened after an epoch."""

    kind: str
    span: Span
    row: Row

    @property
    def text(self) -> str:
        """Why."""
        return str(self.row[self.kind])


def events(stages: Iterable[Span]) -> list[Event]:
    """All that happened, in order."""
    return [Event(kind, span, row) for span in stages for row in span.rows for kind in MARKS if row.get(kind)]


def event_list(stages: Iterable[Span]) -> str:
    """A line for each event with its mark and reason; nothing where nothing happened."""
    lines = [_line(event) for event in events(stages)]
    if not lines:
        return ""
    return f'<ul class="events" aria-label="Roll-backs, warnings and stops">{"".join(lines)}</ul>\n'


def _line(event: Event) -> str:
    mark = MARKS[event.kind]
    drawn = (
        '<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">'
        f'<path d="{mark.path}" fill="none" stroke="var(--ink)" stroke-width="2"/></svg>'
    )
    where = f"{event.span.number} {event.span.stage.name}, epoch {event.row['epoch']}"
    return f"<li>{drawn}<span><strong>{escape(where)}: {mark.title}</strong> {escape(event.text)}</span></li>"
