"""What finished cells of rgbt compare say: what may be claimed, and that text, JSON and page say the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from fusion import bootstrap
from fusion.records import BoxRecord, LabelRecord, PixelRecord
from pipelines.compare import compare, text_table
from pipelines.compare_plan import plan
from pipelines.figures import called

RGB = '  - {name: rgb-task, sensors: [rgb], epochs: 2, groups: [{match: "rgb.*|head", lr: 1.0e-3}]}\n'
PRE = '  - {name: pre, objective: autoencode, epochs: 3, groups: [{match: "thermal.*|objective", lr: 1.0e-3}]}\n'
FUSE = '  - {name: fuse, epochs: 2, groups: [{match: "blend.*|head", lr: 1.0e-3}]}\n'
ALL = '  - {name: all, epochs: 2, groups: [{match: "*", lr: 1.0e-3}]}\n'


def answers(cell, hits):
    """Records of the reported split in which ``hits`` (a share of the boxes, drawn by ``seed``) are found."""
    rng = np.random.default_rng(cell.recipe.seed)
    records = []
    for sample in cell.setting.source.samples(cell.setting.reported):
        found = sample.boxes[rng.random(len(sample.boxes)) < hits]
        kinds = sample.labels[: len(found)] * 0
        boxes = np.concatenate([found, np.full((len(found), 1), 0.9), kinds[:, None]], 1).astype(np.float32)
        records.append(BoxRecord(boxes, sample.boxes, sample.labels * 0))
    return records


@pytest.fixture
def finished(compare_request, small_recipe):
    """Write what finished cells leave, without training: recipe → share of the boxes that it finds."""

    def build(asked, found):
        for cell in plan(asked):
            cell.folder.mkdir(parents=True)
            rows = []
            for absent, hits in found[cell.name].items():
                name = f"records-{absent}.npz"
                bootstrap.save(cell.folder / name, answers(cell, hits))
                rows.append({"absent": absent, "ap50": 0.0, "map": hits / 2, "records": name})
            note = {"digest": cell.setting.digest, "parameters": 1234, "rows": rows}
            (cell.folder / "measured.json").write_text(json.dumps(note))
            history = [
                {"stage": stage.name, "epoch": epoch} | ({"seconds": 1.5} if epoch else {})
                for stage in cell.recipe.stages
                for epoch in range(stage.epochs + 1)
            ]
            (cell.folder / "history.json").write_text(json.dumps(history))
        return compare(asked, fails)

    return build


@pytest.mark.parametrize(
    ("task", "metric", "other"), [("segment", "miou", "miou_foreground"), ("classify", "accuracy", "macro_f1")]
)
def test_masks_and_classes_of_pictures_are_compared_by_their_own_figures(
    task, metric, other, compare_request, small_recipe
):
    path = small_recipe("one", ALL)
    text = Path(path).read_text()
    Path(path).write_text(text.replace("head: {", f"head: {{kind: {task}, "))
    asked, share = compare_request(path, seeds=2), 0.75
    for cell in plan(asked):
        assert (cell.setting.task, cell.setting.pictures) == (task, 6)
        cell.folder.mkdir(parents=True)
        classes, rows = len(cell.setting.card.classes_of(task)), []
        for absent, right in ((None, share), ("rgb", 0.0)):
            bootstrap.save(cell.folder / f"{absent}.npz", some_records(task, right, classes))
            rows.append({"absent": absent, metric: 0.0, other: right / 2, "records": f"{absent}.npz"})
        note = {"digest": cell.setting.digest, "parameters": 1, "rows": rows}
        (cell.folder / "measured.json").write_text(json.dumps(note))
        (cell.folder / "history.json").write_text("[]")
    result = compare(asked, fails)
    assert (result.task, result.metric) == (task, metric)
    whole, without = result.rows
    expected = 0.6 if task == "segment" else share  # of 4 pixels each 3 right: the union is 5
    assert whole.score.mean == pytest.approx(expected) and without.score.mean == 0
    saved = json.loads((asked.out / "compare.json").read_text())["rows"][0]
    assert saved[metric]["mean"] == pytest.approx(expected) and saved[f"{other}_per_seed"] == [share / 2] * 2
    title = called(metric)
    assert title in text_table(result) and f"Highest mean {title}" in (asked.out / "compare.html").read_text()


def some_records(task, right, classes):
    """Six pictures of four pixels of class 1 and of class 0, or four of six of a class, of which a share is right."""
    if task == "segment":
        confusion = np.zeros((classes + 1, classes + 1), np.int64)
        hits = round(4 * right)
        confusion[:2, :2] = [[hits, 4 - hits], [4 - hits, hits]]
        return [PixelRecord(confusion)] * 6
    answers = np.eye(classes, dtype=np.float32)
    return [LabelRecord(answers[int(i >= round(4 * right))], 0) for i in range(4)] + [LabelRecord(answers[0], -1)] * 2


def test_recipes_of_different_tasks_are_not_compared(compare_request, small_recipe):
    boxes, masks = small_recipe("boxes", ALL), small_recipe("masks", ALL)
    Path(masks).write_text(Path(masks).read_text().replace("head: {", "head: {kind: segment, "))
    with pytest.raises(DataError, match="different tasks \\('boxes' to detect, 'masks' to segment\\)"):
        plan(compare_request(boxes, masks))


def fails(*_args, **_more):
    raise AssertionError("a finished cell was trained again")


def test_a_win_is_claimed_only_where_the_interval_excludes_0(compare_request, small_recipe, finished):
    sure = {None: 1.0, "rgb": 0.9, "thermal": 0.2}
    recipes = {"base": {None: 0.5}, "sure": sure, "same": {None: 0.5}, "bad": {None: 0.05}}
    paths = [
        small_recipe(name, RGB, sensors="[rgb]" if len(rows) == 1 else "[rgb, thermal]")
        for name, rows in recipes.items()
    ]
    result = finished(compare_request(*paths, seeds=2), recipes)
    rows = {line.name: line for line in result.rows}
    assert list(rows) == ["base", "sure", "same", "bad", "sure, rgb absent", "sure, thermal absent"]
    assert [rows[name].verdict for name in recipes] == [None, "better", None, "worse"]
    assert rows["base"].score.difference is None
    assert rows["same"].score.difference.mean == 0
    assert rows["sure"].score.difference.low > 0
    assert rows["sure"].score.mean == pytest.approx(1.0)
    assert rows["sure"].others == {"map": (0.5, 0.5)}
    assert len(rows["bad"].score.per_seed) == 2
    assert (rows["sure, rgb absent"].recipe, rows["sure, rgb absent"].absent) == ("sure", "rgb")
    changes = rows["sure"].without
    assert list(changes) == ["rgb", "thermal"]
    for sensor, change in changes.items():
        alone = rows[f"sure, {sensor} absent"]
        assert change.mean == pytest.approx(alone.score.mean - rows["sure"].score.mean) and change.mean < 0
        assert change.low < change.mean < change.high
        assert not alone.without
    assert changes["thermal"].high < changes["rgb"].low
    assert not rows["base"].without


def test_json_text_and_page_say_the_same(compare_request, small_recipe, finished):
    asked = compare_request(
        small_recipe("base", RGB, FUSE), small_recipe("more", RGB, PRE, FUSE, ALL), seeds=2, select="last"
    )
    result = finished(asked, {"base": {None: 0.4}, "more": {None: 0.9}})
    saved = json.loads((asked.out / "compare.json").read_text())
    assert saved == json.loads(json.dumps(result.as_json()))
    base, more = saved["efforts"]
    assert (base["labelled_steps"], more["labelled_steps"]) == (4 * 3, 6 * 3)
    assert more["pretraining"] == [{"stage": "pre", "objective": "autoencode", "epochs": 3, "pictures": 18}]
    assert (more["seconds"], more["shared_seconds"], more["parameters"]) == (13.5, 0, 1234)
    assert more["runs"] == ["runs/more/seed-0", "runs/more/seed-1"]
    assert more["selection"] == "the last epoch of each stage"
    assert [w for w in saved["warnings"] if "differ in labelled optimiser steps (base 12, more 18)" in w]
    text = text_table(result)
    page = (asked.out / "compare.html").read_text()
    for line in result.rows:
        assert f"{line.score.mean:.3f} [{line.score.low:.3f}, {line.score.high:.3f}]" in text
        assert f"{line.score.mean:.3f} <" in page
    assert "warning: the recipes differ" in text
    assert "<strong>better</strong>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count('<svg class="plot') == 2


def test_the_table_says_what_the_absence_of_a_sensor_does(compare_request, small_recipe, finished):
    asked = compare_request(small_recipe("base", RGB, sensors="[rgb]"), small_recipe("both", ALL))
    result = finished(asked, {"base": {None: 0.5}, "both": {None: 1.0, "rgb": 0.9, "thermal": 0.2}})
    head, *rows = text_table(result).splitlines()[1:]
    assert "rgb absent  thermal absent" in head
    row = next(line for line in result.rows if line.name == "both")
    text, page = f"{row.without['thermal'].mean:+.3f}", (asked.out / "compare.html").read_text()
    assert text.startswith("-0.") and text in next(line for line in rows if line.startswith("both  "))
    assert f"{text} <" in page and "thermal absent" in page


@pytest.mark.parametrize(
    ("stage", "fields", "told"),
    [
        (ALL, {}, True),
        (ALL, {"select": "last"}, False),
        (ALL.replace("epochs: 2,", "epochs: 2, guard: {metric: val_loss},"), {"select": "last"}, True),
    ],
)
def test_few_validation_pictures_are_told_where_they_choose(
    compare_request, small_recipe, finished, stage, fields, told
):
    asked = compare_request(small_recipe("a", stage), report="val", **fields)
    warnings = finished(asked, {"a": {None: 0.4}}).warnings
    words = "what selects or guards in a is 2 pairs from the end of train"
    found = [text for text in warnings if text.startswith(words) and "with fewer than 20 pictures" in text]
    assert bool(found) == told == any("largely chance" in text for text in warnings)


def test_what_watches_the_training_is_named(compare_request, small_recipe, finished):
    guarded = ALL.replace("epochs: 2,", "epochs: 2, ema: 0.9, guard: {metric: val_loss},")
    asked = compare_request(small_recipe("plain", ALL), small_recipe("guarded", guarded), report="val")
    plain, guarded = finished(asked, {"plain": {None: 0.4}, "guarded": {None: 0.4}}).efforts
    assert plain.selection.startswith("each stage's best epoch on 2 pairs from the end of train, which are cut off")
    assert "as a moving average of the weights; the guard on 2 pairs from the end of train" in guarded.selection
