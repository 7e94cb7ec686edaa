"""The report shows what the protocol did: unfreezing, roll-backs, decisions, what each sensor carries, pretraining."""

import base64
import math
import re

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from fusion.recipe import Recipe
from pipelines.report import panels
from pipelines.report.events import events
from pipelines.report.page import write_run_report
from pipelines.report.stages import Period, parts_of, rates, spans
from pipelines.report.tables import decisions

BLOCKS = {"rgb": 6, "thermal": 6, "blend": 4}
NAMES = [f"{part}.{i}" for part, count in BLOCKS.items() for i in range(count)] + ["head"]
PRETEXT = {"autoencode": 3, "masked": 2, "distill": 4}


def stage(name, epochs, match, **more):
    return {"name": name, "epochs": epochs, "groups": [{"match": match, "lr": 2e-3}], **more}


@pytest.fixture(scope="module")
def recipe():
    stages = [stage("rgb-task", 5, "rgb.*|head.*", sensors=["rgb"])]
    stages += [
        stage(f"thermal-{kind}", epochs, "thermal.*|objective.*", objective=kind) for kind, epochs in PRETEXT.items()
    ]
    stages += [
        stage("fuse", 4, "blend.*|head.*", schedule={"kind": "onecycle"}, guard={"on_jump": "warn"}),
        stage("unfreeze", 8, "blend.*|head.*", unfreeze={"branch": "thermal", "every": 2}, guard={}),
        stage("auto", 9, "blend.*|head.*", unfreeze="auto", schedule={"kind": "cyclic"}),
    ]
    model = {"size": [64, 64], "rgb": {"arch": "a", "weights": "pretrained"}, "thermal": {"arch": "a"}}
    return Recipe.model_validate({"about": "All of it.", "model": model, "stages": stages})


def lr(trains, factor=1.0):
    return {n: 2e-3 * factor * (0.4 ** (5 - int(n[-1])) if n[0] in "rt" else 1) for n in trains}


def epoch_row(stage, epoch, trains, factor=1.0):
    row = {"stage": stage.name, "epoch": epoch, "val_loss": 9 / (2 + epoch), "best": True}
    row["frozen"] = [n for n in NAMES if n not in trains]
    if epoch:
        row |= {"loss": 8 / (2 + epoch), "seconds": 2.0, "pairs_per_s": 12.5, "wait_share": 0.04, "gradient_norm": 3.0}
        row["lr"] = lr(trains, factor)
        row |= {f"gradient_norm_{p}": 0.4 * k / epoch for k, p in enumerate(("rgb", "thermal", "blend", "head"), 1)
                if any(n.startswith(p) for n in trains)}  # fmt: skip
    if stage.is_task:
        row["ap50"] = 0.45 + 0.05 * epoch
    return row


def opened(stage, epoch):
    """What trains in an epoch: in the unfreezing stages a further thermal block every second epoch."""
    if not stage.is_task:
        return [n for n in NAMES if n.startswith("thermal")] + ["objective"]
    if stage.name == "rgb-task":
        return [n for n in NAMES if n.startswith(("rgb", "head"))]
    deep = (max(1, epoch) - 1) // 2 + 1 if stage.unfreeze else 0
    return [n for n in NAMES if n.startswith(("blend", "head"))] + [f"thermal.{5 - k}" for k in range(deep)]


@pytest.fixture(scope="module")
def history(recipe):
    """A run in which all that can happen does."""
    rows = {}
    for part in recipe.stages:
        for epoch in range(part.epochs - (part.name == "auto") * 3 + 1):
            row = epoch_row(part, epoch, opened(part, epoch), 0.5 if part.name == "unfreeze" and epoch > 3 else 1.0)
            if part.is_task and part.name != "rgb-task":
                row |= {"ap50_rgb": 0.4 - 0.01 * epoch, "ap50_thermal": 0.3 + 0.02 * epoch}
                row |= {"forgetting_rgb": 0.01 * epoch, "forgetting_thermal": -0.02 * epoch}
            rows[part.name, epoch] = row
    rows["fuse", 2]["warning"] = "val_loss rose <by 7 %>"
    rows["unfreeze", 3] |= {"rolled_back": "val_loss 40.0 is above 2.2; back to epoch 2", "val_loss": 40.0, "ap50": 0.1,
                            "best": False}  # fmt: skip
    gone = {key: rows["unfreeze", 6][key] for key in ("stage", "epoch")}
    rows["unfreeze", 6] = gone | {"rolled_back": "the loss is nan on sample a/7", "loss": math.nan, "best": False}
    for epoch, deeper in ((2, True), (4, True), (6, False)):
        made = {"blocks": epoch // 2, "gain": 0.0312 if deeper else -0.0021, "se": 0.0104, "deeper": deeper}
        rows["auto", epoch]["decision"] = made
    rows["auto", 6]["stopped"] = "unfreezing: the gain is within one standard error"
    return list(rows.values())


def scene(count=3, height=64, width=96):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    blobs = [2.5 * np.exp(-((x - 20 - 20 * k) ** 2 + (y - 36) ** 2) / 90) for k in range(count)]
    return np.stack([(y / height - 0.5 + blob)[None] for blob in blobs])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of pictures as the trainer leaves it: float16 arrays of the first three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = scene()
    mask = np.kron(np.indices((4, 6)).sum(0) % 2, np.ones((16, 16)))[None, None].repeat(3, 0)
    rgb = np.stack([scene()[:, 0] * gain for gain in (1.0, -0.5, 0.3)], 1)
    for when, error in (("first", 0.8), ("last", 0.1)):
        arrays = {
            "autoencode": {"picture": picture, "reconstruction": picture + error},
            "masked": {"picture": picture, "reconstruction": picture + error * mask, "mask": mask},
            "distill": {"picture": picture, "rgb_picture": rgb, "match": np.full((3, 1, 8, 12), 1 - error)},
        }
        for kind, found in arrays.items():
            halves = {name: array.astype(np.float16) for name, array in found.items()}
            np.savez(folder / f"thermal-{kind}-{when}.npz", **halves)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory, history, recipe, drawn):
    out = tmp_path_factory.mktemp("run") / "report.html"
    return write_run_report(out, "run", history, recipe, None, {}, "", drawn).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stages(history, recipe):
    return {span.stage.name: span for span in spans(history, recipe)}


def plots(written):
    return re.findall(r'<svg class="plot.*?</svg>', written, re.DOTALL)


def table(written, label):
    found = re.search(rf'aria-label="{label}">(.*?)</div>', written, re.DOTALL)
    rows = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", found[1], re.DOTALL)
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_strip_follows_unfreezing_within_a_stage(stages):
    unfreeze = stages["unfreeze"]
    begin = unfreeze.start
    # Epoch 6 broke off before it had rates: it has those of the epoch before.
    assert unfreeze.periods("thermal") == [
        Period(begin, begin + 2, 1, 6),
        Period(begin + 2, begin + 4, 2, 6),
        Period(begin + 4, begin + 6, 3, 6),
        Period(begin + 6, begin + 8, 4, 6),
    ]
    assert unfreeze.periods("rgb") == [Period(begin, begin + 8, 0, 6)]
    assert unfreeze.most("thermal") == (4, 6)
    assert parts_of(stages.values()) == ["rgb", "thermal", "blend", "head"]


def test_rates_follow_roll_back_and_schedule(stages):
    unfreeze, fuse = stages["unfreeze"], stages["fuse"]
    assert rates(unfreeze.epochs[2], "thermal") == pytest.approx([8e-4, 2e-3])
    assert rates(unfreeze.epochs[3], "thermal") == pytest.approx([4e-4, 1e-3])
    xs, deepest, _ = panels._course(fuse, "head", 8)
    assert (xs[0], xs[-1]) == (fuse.start, fuse.end)
    top = int(np.argmax(deepest))
    assert 0 < top < len(xs) - 1  # a one-cycle rises, then falls
    assert deepest[top] == pytest.approx(2e-3, rel=0.02) and deepest[0] < 1e-4 > deepest[-1]
    assert all(math.isnan(value) for value in panels._course(fuse, "thermal", 8)[1])


def test_what_was_thrown_away_is_no_point_of_a_curve(stages):
    unfreeze = stages["unfreeze"]
    places, values = unfreeze.points("val_loss")
    assert [place - unfreeze.start for place in places] == [0, 1, 2, 4, 5, 7, 8]
    assert 40.0 not in values
    assert unfreeze.length == 8 and unfreeze.handed_on["epoch"] == 8
    assert [(e.kind, e.span.stage.name, e.row["epoch"]) for e in events(stages.values())] == [
        ("warning", "fuse", 2), ("rolled_back", "unfreeze", 3), ("rolled_back", "unfreeze", 6), ("stopped", "auto", 6),
    ]  # fmt: skip


@pytest.mark.parametrize(("select", "epoch"), [("best", 3), ("last", 2)])
def test_what_a_stage_hands_on_after_going_back_at_its_end(select, epoch, recipe):
    rows = [epoch_row(recipe.stages[-1], e, ["head"]) for e in range(5)]
    rows[4] |= {"rolled_back": "what opened last did not help", "back_to": 2, "best": False}
    (span,) = spans(rows, recipe.model_copy(update={"select": select}))
    assert span.handed_on["epoch"] == epoch


def test_marks_lie_on_the_axis(stages):
    axes = Figure().subplots()
    panels.loss_panel(axes, list(stages.values()), [], panels.Format(10, 1, 9, 6, 12))
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "x"]
    begin, (_, top) = stages["unfreeze"].start, axes.get_ylim()
    # One loss lies above the axis, which the others set, the other is no number: both are marked near its top.
    assert [x for x, _ in crosses] == [begin + 3, begin + 6]
    assert all(0.7 * top < y < top < 40 for _, y in crosses)


def test_reasons_are_told_under_the_plot(written):
    told = re.search(r'<ul class="events".*?</ul>', written, re.DOTALL)[0]
    lines = [re.sub(r"<.*?>", "", line) for line in re.findall(r"<li>.*?</li>", told)]
    assert lines == [
        "5 fuse, epoch 2: warning val_loss rose &lt;by 7 %&gt;",
        "6 unfreeze, epoch 3: rolled back val_loss 40.0 is above 2.2; back to epoch 2",
        "6 unfreeze, epoch 6: rolled back the loss is nan on sample a/7",
        "7 auto, epoch 6: stopped unfreezing: the gain is within one standard error",
    ]
    assert written.index('<ul class="events"') > written.rindex('<svg class="plot')


def test_decisions_of_auto_unfreezing(written):
    assert table(written, "Decisions of auto unfreezing") == [
        ["7 auto", "2", "1", "+0.0312", "0.0104", "one block deeper"],
        ["7 auto", "4", "2", "+0.0312", "0.0104", "one block deeper"],
        ["7 auto", "6", "3", "-0.0021", "0.0104", "no deeper"],
    ]


def test_a_decision_without_figures_has_dashes(recipe):
    rows = [epoch_row(recipe.stages[-1], e, ["head"]) for e in range(3)]
    rows[2]["decision"] = {"blocks": 1, "gain": None, "se": None, "deeper": False}
    assert decisions(spans(rows, recipe)).count("<td>–</td>") == 2


def test_stage_table_tells_waiting_and_stops(written):
    rows = {row[0]: row for row in table(written, "Results of each stage")}
    assert rows["5 fuse"][-1] == "4.0%"
    assert rows["7 auto"][3] == "6 of 9"
    assert rows["6 unfreeze"][3:5] == ["8", "epoch 8"]


def test_every_panel_and_its_text(written):
    wide, narrow = plots(written)
    for plot in (wide, narrow):
        for text in ("Loss", "Validation AP50", "Forgetting", "Learning rate", "Gradient norm", "Blocks that train"):
            assert f">{text}</text>" in plot
    assert "thermal (1, then 2, then 3, then 4 blocks)" in wide
    assert "RGB alone 0.320, thermal alone 0.460, epoch 3 rolled back, epoch 6 rolled back" in wide


def test_lines_differ_in_more_than_colour():
    dashes = [str(panels.DASHES[role]) for role in set(panels.ROLES.values())]
    assert len(set(dashes)) == len(dashes) == 5


def test_old_runs_have_fewer_panels(tmp_path, history, recipe):
    kept = ("stage", "epoch", "val_loss", "best", "frozen", "loss", "seconds", "pairs_per_s", "lr", "ap50")
    old = [{key: row[key] for key in kept if key in row} for row in history if not row.get("rolled_back")]
    text = write_run_report(tmp_path / "r.html", "t", old, recipe, None, {}, "", tmp_path / "none").read_text()
    for absent in ("Forgetting", "Gradient norm", "Auto unfreezing", 'class="events"', 'id="pretraining"'):
        assert absent not in text
    assert "Validation AP50" in text
    total = [row | {"gradient_norm": 2.0} for row in old]
    text = write_run_report(tmp_path / "r.html", "t", total, recipe, None, {}, "").read_text()
    assert "all parts" in text


def images(written, kind):
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"[^>]* alt="(thermal-[^"]+)">', written)
    return {
        alt.split(", ", 1)[1]: cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), 1)
        for encoded, alt in found
        if alt.startswith(f"thermal-{kind}")
    }


def test_pretraining_pictures(written):
    names = {
        "autoencode": ["thermal", "epoch 1: error 0.80", "epoch 3: error 0.10"],
        "masked": ["thermal", "what it saw: 50%", "epoch 1: error 0.80", "epoch 2: error 0.10"],
        "distill": ["thermal", "RGB", "match, epoch 1: mean 0.20", "match, epoch 4: mean 0.90"],
    }
    for kind, texts in names.items():
        assert list(images(written, kind)) == [f"picture {n}: {text}" for n in (1, 2, 3) for text in texts]
    shown = {k: v.astype(int) for k, v in images(written, "autoencode").items()}
    early, late = (np.abs(shown[f"picture 1: {text}"] - shown["picture 1: thermal"]).mean()
                   for text in names["autoencode"][1:])  # fmt: skip
    assert late < early / 2
    masked = images(written, "masked")
    whole, seen = (masked[f"picture 1: {text}"].astype(int) for text in names["masked"][:2])
    changed = np.abs(whole - seen).mean(2) > 8
    assert changed[4:39, 46:82].mean() > 0.9 and changed[4:39, 4:39].mean() < 0.1
    assert len(written) < 700_000


def test_damaged_pictures_are_left_out(tmp_path, history, recipe, drawn):
    (tmp_path / "thermal-masked-last.npz").write_bytes(b"no archive")
    good = (drawn / "thermal-autoencode-last.npz").read_bytes()
    (tmp_path / "thermal-autoencode-last.npz").write_bytes(good)
    (tmp_path / "thermal-autoencode-first.npz").write_bytes(good[: len(good) // 2])
    text = write_run_report(tmp_path / "r.html", "t", history, recipe, None, {}, "", tmp_path).read_text()
    assert [name.split(": ")[1] for name in images(text, "autoencode")][:2] == ["thermal", "epoch 3"]
    assert images(text, "masked") == {}
