"""One bar for each row: what is left of a model's main figure when something is wrong with the pairs."""

from html import escape

from matplotlib.figure import Figure

from pipelines.evaluation import Evaluation
from pipelines.figures import begins, called
from pipelines.report.stages import role_of
from pipelines.report.style import colour
from pipelines.report.svg import inline, key, plot_style

_WORDS = {"rgb": "sees RGB", "thermal": "sees thermal", "fused": "sees both"}


def robustness(evaluation: Evaluation) -> str:
    """Legend, and one drawing for wide screens and one for phones, of which the page shows one."""
    metric = called(evaluation.metrics[0])
    told = "; ".join(f"{row.name} {row.main:.3f}" for row in evaluation.rows)
    drawn = []
    for width, text, name, css in ((10.8, 9.0, "bars", "wide-only"), (4.3, 9.5, "bars-narrow", "narrow")):
        with plot_style(text):
            drawn.append(inline(_figure(evaluation, width, metric), name, f"{metric} of each row. {told}.", css))
    return f"{_legend(evaluation, metric)}\n" + "\n".join(drawn)


def _legend(evaluation: Evaluation, metric: str) -> str:
    used = {role_of(row.sensors) for row in evaluation.rows}
    items = "".join(f"<li>{key(role)}{escape(words)}</li>" for role, words in _WORDS.items() if role in used)
    return (
        f'<ul class="legend">{items}</ul>\n<p class="note">{escape(begins(metric))} on the same pairs. Full: as they '
        "are; pale: with a sensor taken away, moved or made worse. Dashed: the model above with nothing done to the "
        "pairs.</p>"
    )


def _figure(evaluation: Evaluation, width: float, metric: str) -> Figure:
    rows = evaluation.rows
    figure = Figure((width, 0.7 + (0.3 if width > 6 else 0.38) * len(rows)), layout="constrained")
    axes = figure.subplots()
    whole = [(place, row.main) for place, row in enumerate(rows) if row.kind == "whole"]
    for (start, value), (end, _) in zip(whole, [*whole[1:], (len(rows), 0.0)], strict=True):
        if end - start > 1:  # down over the rows of the same model
            axes.plot([value, value], [start, end - 0.6], color=colour("muted"), linewidth=0.8, linestyle=(0, (4, 3)))
    for place, row in enumerate(rows):
        alpha = 1.0 if row.kind == "whole" else 0.5
        axes.barh([place], [row.main], height=0.62, color=colour(role_of(row.sensors)), alpha=alpha, zorder=2)
        ground = {"facecolor": colour("card"), "edgecolor": "none", "pad": 1.0}  # over the dashed line
        text = f"{row.main:.3f}"
        axes.text(row.main + 0.012, place, text, va="center_baseline", color=colour("ink"), bbox=ground, zorder=3)
    names = [row.name if width > 6 else row.name.replace(", ", ",\n") for row in rows]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 1.08), xlabel=metric)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.grid(axis="y", visible=False)
    return figure
