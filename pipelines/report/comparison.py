"""The page of rgbt compare: a dot for each recipe with its interval, the table, and what selected what."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.yaml_file import atomic
from pipelines.compare_effort import Effort, duration
from pipelines.compare_result import Comparison, Line, against, change_without
from pipelines.figures import BELOW, called
from pipelines.report.shell import Section, head, html_page, html_table, name_cell
from pipelines.report.stages import role_of
from pipelines.report.style import colour
from pipelines.report.svg import inline, key, plot_style
from pipelines.report.tables import sensors_cell

_VERSIONS = ("python", "torch", "timm")


def write_comparison(out: Path, result: Comparison) -> Path:
    """Write the page, whole or not at all; return ``out``."""
    about = (
        f"{len(result.efforts)} recipes, {_plural(result.seeds, 'seed')} each, measured on {result.pictures:,} pairs "
        f"of the {result.split} split, on which nothing was chosen."
    )
    lead = f'<p class="lead">{escape(_verdict(result))}</p>\n'
    notes = "".join(f'<p class="note"><strong>Note</strong>: {escape(text)}.</p>\n' for text in result.warnings)
    sections = [
        Section("accuracy", "Accuracy", f"{lead}{notes}{_legend(result)}{_plots(result)}\n{_table(result)}"),
        Section("selection", "What selected what, and what it cost", _efforts(result)),
    ]
    page = html_page("Comparison of recipes", about, _facts(result), sections)
    with atomic(out, "w") as file:
        file.write(page)
    return out


def _facts(result: Comparison) -> dict[str, str]:
    here = result.machine
    share = "all" if result.labels == 1 else f"{100 * result.labels:g} % of the training pairs, passes raised to match"
    return {
        "data": f"{result.card}, split {result.split}",
        "labels": share,
        "validated on while training": result.validation,
        "machine": ", ".join(
            [*([here["gpu"]] if "gpu" in here else []), here["cpu"], f"{here['cores']} cores", here["system"]]
        ),
        "trained on": f"{here['accelerator']}, {here['precision']}",
        "jobs at a time": here["jobs"],
        "versions": ", ".join(f"{name} {here[name]}" for name in _VERSIONS),
        "command": result.command,
    }


def _verdict(result: Comparison) -> str:
    """The answer in a sentence, favourable or not."""
    whole = [line for line in result.rows if line.absent is None]
    best = max(whole, key=lambda line: line.score.mean)
    told = f"Highest mean {called(result.metric)}: {best.name}, {best.score.mean:.3f}."
    for verdict in ("better", "worse"):
        names = [line.name for line in whole if line.verdict == verdict]
        if names:
            told += f" {verdict.capitalize()} than {result.base}, the interval excludes 0: {', '.join(names)}."
    unsure = [line.name for line in whole if line.verdict is None and line.name != result.base]
    if unsure:
        told += f" Not told apart from {result.base}: {', '.join(unsure)}."
    return told


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _role(result: Comparison, line: Line) -> str:
    return role_of([s for s in result.effort(line).sensors if s != line.absent])


def _legend(result: Comparison) -> str:
    words = {"rgb": "sees RGB", "thermal": "sees thermal", "fused": "sees both"}
    used = [role for role in words if any(_role(result, line) == role for line in result.rows)]
    items = "".join(f"<li>{key(role)}{words[role]}</li>" for role in used)
    return (
        f'<ul class="legend">{items}</ul>\n<p class="note">Filled dot: mean over the seeds; bar: its 95 % interval '
        "over pictures and seeds; small dots: each seed; open dot: a sensor taken away.</p>\n"
    )


def _plots(result: Comparison) -> str:
    """One drawing for wide screens and one for phones, of which the page shows one."""
    alt = f"Mean {called(result.metric)} with 95 % intervals. " + "; ".join(
        f"{line.name} {line.score.mean:.3f} ({line.score.low:.3f} to {line.score.high:.3f})" for line in result.rows
    )
    drawn = []
    for width, text, name, css in ((10.8, 9.0, "dots", "wide-only"), (4.3, 9.5, "dots-narrow", "narrow")):
        with plot_style(text):
            drawn.append(inline(_figure(result, width), name, f"{alt}.", css))
    return "\n".join(drawn)


def _figure(result: Comparison, width: float) -> Figure:
    figure = Figure((width, 0.7 + 0.34 * len(result.rows)), layout="constrained")
    axes = figure.subplots()
    base = result.rows[0]
    axes.axvline(base.score.mean, color=colour("muted"), linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, line in enumerate(result.rows):
        _dots(axes, place, line, colour(_role(result, line)))
    names = [line.name if width > 6 else line.name.replace(", ", ",\n") for line in result.rows]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=called(result.metric))
    axes.grid(axis="y", visible=False)
    return figure


def _dots(axes: Axes, place: int, line: Line, shade: str) -> None:
    found = line.score
    axes.plot([found.low, found.high], [place, place], color=shade, linewidth=2.2, alpha=0.55, zorder=2)
    if len(found.per_seed) > 1:
        axes.plot(found.per_seed, [place + 0.24] * len(found.per_seed), ".", color=shade, markersize=4, zorder=3)
    face = shade if line.absent is None else colour("card")
    axes.plot([found.mean], [place], "o", markersize=7, mfc=face, mec=shade, mew=1.6, zorder=4)


def _table(result: Comparison) -> str:
    metric, others = called(result.metric), result.rows[0].others
    heads = [head("Recipe"), head("Sees", text=True), head(metric, "mean, 95 % interval")]
    heads += [head(called(name), BELOW.get(name, "")) for name in others]
    heads += [head(f"Against {result.base}", f"{metric}, 95 % interval", text=True)]
    heads += [head(f"{sensor} absent", f"change of {metric}") for sensor in ("RGB", "thermal")]
    heads += [head(f"Seed {seed}", metric) for seed in range(result.seeds)]
    heads += [
        head("Steps", "on labelled pairs"),
        head("Without labels", "epochs × pictures"),
        head("Training"),
    ]
    heads += [head("Parameters")]
    body = [_row(result, line) for line in result.rows]
    note = (
        "Against the first recipe, on the same pictures and seeds; better or worse is said only where the interval "
        "excludes 0."
    )
    if any(effort.shared_seconds for effort in result.efforts):
        note += " *: with the time that its first stages took in another run, with which it shares them."
    return html_table("Accuracy of each recipe", heads, body) + f'<p class="note">{note}</p>'


def _row(result: Comparison, line: Line) -> str:
    effort, score = result.effort(line), line.score
    interval = f'{score.mean:.3f} <span class="note">{score.low:.3f} – {score.high:.3f}</span>'
    told = escape(against(line))
    if line.verdict:
        told = told.replace(line.verdict, f"<strong>{line.verdict}</strong>")
    cells = [name_cell(key(_role(result, line)) + escape(line.name))]
    cells += [sensors_cell(s for s in effort.sensors if s != line.absent)]
    cells += [f"<td>{interval}</td>", *(f"<td>{line.mean(name):.3f}</td>" for name in line.others)]
    cells += [f'<td class="text">{told}</td>']
    cells += [f"<td>{_without(line, sensor)}</td>" for sensor in ("rgb", "thermal")]
    cells += [f"<td>{value:.3f}</td>" for value in score.per_seed]
    cells += [f"<td>{text}</td>" for text in (_cost(effort) if line.absent is None else [""] * 4)]
    css = ' class="both"' if line.absent is None and len(effort.sensors) > 1 else ""
    return f"<tr{css}>{''.join(cells)}</tr>"


def _without(line: Line, sensor: str) -> str:
    """What a sensor's absence does to the whole recipe, with its interval."""
    if sensor not in line.without:
        return ""
    found = line.without[sensor]
    return f'{change_without(line, sensor)} <span class="note">{found.low:+.3f} to {found.high:+.3f}</span>'


def _cost(effort: Effort) -> Sequence[str]:
    without = ", ".join(f"{one.epochs} × {one.pictures:,}" for one in effort.pretraining) or "–"
    return f"{effort.labelled_steps:,.0f}", without, duration(effort), f"{effort.parameters / 1e6:.2f} M"


def _efforts(result: Comparison) -> str:
    heads = [
        head("Recipe"),
        *(head(name, text=True) for name in ("Weights are of", "Learns without labels", "Runs")),
    ]
    return html_table("What selected what", heads, [_effort(effort) for effort in result.efforts])


def _effort(effort: Effort) -> str:
    learnt = "; ".join(
        f"{one.stage} ({one.objective}), {_plural(one.epochs, 'epoch')} over {one.pictures:,} pictures"
        for one in effort.pretraining
    )
    cells = [name_cell(escape(effort.name))]
    cells += [
        f'<td class="text">{escape(text)}</td>' for text in (effort.selection, learnt or "–", ", ".join(effort.runs))
    ]
    return f"<tr>{''.join(cells)}</tr>"
