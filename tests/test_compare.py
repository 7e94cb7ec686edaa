"""Recipes × seeds: what is trained once, what is never trained again, what is reported and what may be claimed."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from data.card import DatasetCard
from data.errors import DataError
from fusion import bootstrap
from fusion.bootstrap import Record
from fusion.errors import FusionError, Stopped
from pipelines.cli import main
from pipelines.compare import compare, text_table
from pipelines.compare_plan import plan
from pipelines.compare_request import Request
from pipelines.compare_setting import choose_setting
from pipelines.recipe_file import TrainRecipe

RECIPE = """
about: small
model:
  size: [64, 96]
  sensors: SENSORS
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
  head: {width: 16}
batch: 4
workers: 0
stages:
"""
RGB = '  - {name: rgb-task, sensors: [rgb], epochs: 2, groups: [{match: "rgb.*|head", lr: 1.0e-3}]}\n'
PRE = '  - {name: pre, objective: autoencode, epochs: 3, groups: [{match: "thermal.*|objective", lr: 1.0e-3}]}\n'
FUSE = '  - {name: fuse, epochs: 2, groups: [{match: "blend.*|head", lr: 1.0e-3}]}\n'
ALL = '  - {name: all, epochs: 2, groups: [{match: "*", lr: 1.0e-3}]}\n'

# What stands in for training, in a file of its own so that another process can import it. It works in stages and steps
# as the trainer does, uses the store, stops when asked to, and goes on; each step leaves a line in calls.txt.
STAND_IN = """
import json, os, time
from pathlib import Path

from fusion.checkpoint import save_model
from fusion.errors import FusionError, Stopped
from fusion.model import build_model
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import dump_recipe
from pipelines.train import model_config
from pipelines.versions import versions

STEPS = 3


def tell(text):
    with (Path(__file__).parent / "calls.txt").open("a") as file:
        file.write(text + "\\n")


def rows(stage):
    yield {"stage": stage.name, "epoch": 0}
    for epoch in range(stage.epochs):
        yield {"stage": stage.name, "epoch": epoch + 1, "seconds": 2.0}


def train(recipe, name, card, out, resume=False, *, accelerator, precision, loggers=(), stop, store):
    if name == "broken":
        raise FusionError("weights do not fit")
    if name == "killed":
        os._exit(9)
    (out / "recipe.yaml").write_text(dump_recipe(recipe))
    note = {"card_sha256": CardLoaders(card, recipe).fingerprint, "versions": versions()}
    (out / "run.json").write_text(json.dumps(note | {"accelerator": accelerator, "precision": precision}))
    place, stages = out / "place.json", range(len(recipe.stages))
    stored = [index + 1 for index in stages if store.fetch(index)]
    stage, step = json.loads(place.read_text()) if resume else (max(stored, default=0), 0)
    for index in stages[stage:]:
        for number in range(step if index == stage else 0, STEPS):
            tell(f"{name} {recipe.seed} {recipe.stages[index].name} {number} {os.environ.get('OMP_NUM_THREADS')}")
            print("\\rstep 1\\rstep 2", end="")
            place.write_text(json.dumps([index, number + 1]))
            if name == "long":
                time.sleep(0.01)
            if stop():
                raise Stopped("asked to")
        print(f"\\r{recipe.stages[index].name} is done")
        store.keep(index, lambda folder: (folder / "history.json").write_text("[]"))
    save_model(out, build_model(model_config(recipe, card), recipe.seed)[0])
    history = [row for one in recipe.stages for row in rows(one)]
    (out / "history.json").write_text(json.dumps(history))
    return history
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The module that stands in for training; ``calls()`` reads and forgets what it did."""
    (tmp_path / "stand_in_for_training.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("stand_in_for_training", None)
    module = importlib.import_module("stand_in_for_training")

    def calls():
        path = tmp_path / "calls.txt"
        found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    module.calls = calls
    yield module
    sys.modules.pop("stand_in_for_training", None)


@pytest.fixture
def write(tmp_path):
    """Write a recipe and return its path as text."""

    def recipe(name, *stages, sensors="[rgb, thermal]"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.replace("SENSORS", sensors) + "".join(stages))
        return str(path)

    return recipe


@pytest.fixture
def request_for(synthetic_card, tmp_path):
    def build(*recipes, **fields):
        return Request(recipes, synthetic_card, tmp_path / "out", **{"seeds": 1} | fields)

    return build


def stages_of(calls):
    """(recipe, seed, stage) of each stage that was trained, in order, once."""
    return list(dict.fromkeys((name, int(seed), stage) for name, seed, stage, *_ in calls))


def test_a_shared_prefix_trains_once_and_a_finished_cell_never_again(write, request_for, stand_in):
    staged, frozen = write("staged", RGB, FUSE, ALL), write("frozen", RGB, FUSE)
    result = compare(request_for(staged, frozen, seeds=2), stand_in.train)
    wanted = [("staged", seed, stage) for seed in (0, 1) for stage in ("rgb-task", "fuse", "all")]
    assert stages_of(stand_in.calls()) == wanted
    assert [effort.shared_seconds for effort in result.efforts] == [0, 8]
    assert [effort.seconds for effort in result.efforts] == [12, 8]
    compare(request_for(staged, frozen, seeds=2), stand_in.train)
    assert stand_in.calls() == []
    other = write("other", RGB, ALL)
    compare(request_for(staged, frozen, other, seeds=2), stand_in.train)
    assert stages_of(stand_in.calls()) == [("other", 0, "all"), ("other", 1, "all")]


def test_a_cell_that_was_stopped_is_gone_on_with(write, request_for, stand_in):
    asked = request_for(write("one", RGB, FUSE), seeds=2)

    def interrupted(*args, stop, **more):
        def polled():
            if len((Path(stand_in.__file__).parent / "calls.txt").read_text().splitlines()) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return stop()

        return stand_in.train(*args, stop=polled, **more)

    with pytest.raises(Stopped):
        compare(asked, interrupted)
    first = stand_in.calls()
    assert len(first) == 4
    compare(asked, stand_in.train)
    second = stand_in.calls()
    steps = [tuple(call[:4]) for call in first + second]
    assert steps == [("one", str(s), stage, str(n)) for s in (0, 1) for stage in ("rgb-task", "fuse") for n in range(3)]
    log = (asked.out / "runs" / "one" / "seed-0" / "log.txt").read_text().splitlines()
    assert [line for line in log if line] == ["rgb-task is done", "fuse is done"], "no line of a progress bar"


def test_two_at_a_time_share_a_prefix_and_have_one_thread_each(write, request_for, stand_in, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("pipelines.compare_jobs.cores", lambda: 2)
    staged, frozen = write("staged", RGB, ALL), write("frozen", RGB, FUSE)
    compare(request_for(staged, frozen, jobs=2, report="test"), stand_in.train)
    calls = stand_in.calls()
    trained = stages_of(calls)
    assert sorted(stage for _, _, stage in trained) == ["all", "fuse", "rgb-task"]
    assert {call[4] for call in calls} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("name", "error", "jobs"),
    [("broken", "broken, seed 0: weights do not fit", 1), ("broken", "broken, seed 0: weights do not fit", 2),
     ("killed", "killed, seed 0: its process ended with code 9; see", 2)],
)  # fmt: skip
def test_a_cell_that_fails_is_named(write, request_for, stand_in, name, error, jobs):
    with pytest.raises((DataError, FusionError), match=error):
        compare(request_for(write(name, RGB), jobs=jobs), stand_in.train)


@pytest.mark.parametrize(
    ("jobs", "seeds", "told"),
    [
        (
            1,
            2,
            "2 of 4 cells failed: broken, seed 0: weights do not fit; broken, seed 1: weights do not fit. All other ",
        ),
        (2, 1, "broken, seed 0: weights do not fit. All other cells are finished and kept"),
    ],
)
def test_the_others_are_finished_when_one_fails(write, request_for, stand_in, jobs, seeds, told):
    broken, good = write("broken", RGB, FUSE), write("good", RGB)
    asked = request_for(broken, good, seeds=seeds, jobs=jobs)
    with pytest.raises(DataError) as caught:
        compare(asked, stand_in.train)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert stages_of(stand_in.calls()) == [("good", seed, "rgb-task") for seed in range(seeds)]
    assert not (asked.out / "compare.json").exists()
    assert compare(request_for(good, seeds=seeds), fails).rows[0].name == "good"


def test_a_signal_stops_all_processes_and_loses_nothing(write, request_for, stand_in, tmp_path, monkeypatch):
    asked = request_for(write("long", RGB, FUSE), seeds=2, jobs=2)
    (tmp_path / "stand_in_for_training.py").write_text(STAND_IN.replace("STEPS = 3", "STEPS = 10000"))

    def beat(_):
        calls = tmp_path / "calls.txt"
        if calls.exists() and {"0", "1"} <= {line.split()[1] for line in calls.read_text().splitlines()}:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pipelines.compare_jobs.Progress.beat", beat)
    with pytest.raises(Stopped):
        compare(asked, stand_in.train)
    calls = stand_in.calls()
    for seed in ("0", "1"):
        done = [int(call[3]) for call in calls if call[1] == seed]
        assert 0 < len(done) < 10000
        assert done == list(range(len(done)))
        place = asked.out / "runs" / "long" / f"seed-{seed}" / "place.json"
        assert json.loads(place.read_text()) == [0, len(done)]
    assert all(free(cell.claim()) for cell in plan(asked))


def free(claim):
    """Whether it was granted; it is given back at once."""
    if claim is not None:
        claim.release()
    return claim is not None


# ── which pictures


def ids(card, split):
    return [sample.id for sample in card.samples(split)]


def test_test_is_reported_and_val_selects(request_for, write, synthetic_card):
    setting = choose_setting(request_for(write("one", RGB)))
    card = DatasetCard.load(synthetic_card)
    assert (setting.reported, setting.pictures, setting.leaks) == ("test", 6, 0)
    assert ids(setting.card, "train") == ids(card, "train")
    assert ids(setting.card, "val") == ids(card, "val")
    assert "split 'val'" in setting.validation


def test_where_val_is_reported_a_part_of_train_selects(request_for, write, synthetic_card):
    setting = choose_setting(request_for(write("one", RGB), report="val", holdout=0.25))
    train = ids(DatasetCard.load(synthetic_card), "train")
    assert setting.reported == "val"
    assert ids(setting.card, "train") == train[:9]
    assert ids(setting.card, "val") == train[9:]
    assert "3 pairs from the end of train, which are cut off" in setting.validation


def test_with_the_last_epoch_all_of_train_is_trained_on(request_for, write, synthetic_card):
    asked = request_for(write("one", RGB), report="val", select="last", holdout=0.25)
    setting = choose_setting(asked)
    train = ids(DatasetCard.load(synthetic_card), "train")
    assert ids(setting.card, "train") == train
    assert ids(setting.card, "val") == train[9:]
    assert "in-sample" in setting.validation
    assert {cell.recipe.select for cell in plan(asked)} == {"last"}


def test_fewer_labels_at_equal_steps(request_for, write):
    path = write("one", RGB, PRE)
    (whole,) = plan(request_for(path))
    (few,) = plan(request_for(path, labels=1 / 3))
    assert len(ids(few.setting.card, "train")) == 4
    assert len(ids(few.setting.card, "unlabelled")) == 6 + 8
    assert few.recipe.repeat == 3
    assert few.work[0].steps == whole.work[0].steps == 3
    assert few.work[0].pictures == 4
    assert few.work[1].pictures == whole.work[1].pictures == 18
    assert set(few.keys).isdisjoint(whole.keys)


def test_passes_come_from_the_pairs_that_are_trained_on(request_for, write):
    """Of 12 pairs 2 are cut off, of 6 only 1: 10 are to 5 as they are, however many were asked for."""
    asked = {"report": "val", "changes": ("batch=2",)}
    (whole,) = plan(request_for(write("one", RGB), **asked))
    (few,) = plan(request_for(write("one", RGB), labels=0.5, **asked))
    assert (len(ids(whole.setting.card, "train")), len(ids(few.setting.card, "train"))) == (10, 5)
    assert (few.recipe.repeat, few.work[0].steps, whole.work[0].steps) == (2, 5, 5)
    (odd,) = plan(request_for(write("one", RGB), labels=0.75, changes=("batch=1", "repeat=3")))
    assert (odd.recipe.repeat, odd.work[0].steps) == (4, 36)


@pytest.mark.parametrize(
    ("share", "more", "error"),
    [
        (0.7, {}, r"--labels 0.7: 8 of 12 pairs make 2 steps in an epoch, all of them 3 \(recipe 'a'\); .*: 0.6 or 1$"),
        (0.4, {"changes": ("b:batch=2",)}, r"--labels 0.4: 5 of 12 .* \(recipe 'b'\); .*: 0.3 or 0.5$"),
    ],
)  # fmt: skip
def test_a_share_that_allows_no_equal_steps_is_refused(request_for, write, share, more, error):
    a, b = write("a", RGB), write("b", RGB)
    with pytest.raises(DataError, match=error) as caught:
        plan(request_for(a, b, labels=share, **more))
    whole = plan(request_for(a, b, **more))
    for text in str(caught.value).rpartition(": ")[2].split(" or "):
        cells = plan(request_for(a, b, labels=float(text), **more))
        assert [cell.work[0].steps for cell in cells] == [cell.work[0].steps for cell in whole]


def test_epochs_that_a_recipe_cannot_have_are_one_line(request_for, write, monkeypatch):
    def scaled(self, share):
        raise FusionError(f"stages.0.unfreeze: {share} of it is nothing")

    monkeypatch.setattr(TrainRecipe, "scaled", scaled)
    with pytest.raises(DataError, match=r"^--epochs 0\.5: recipe 'a': stages\.0\.unfreeze: 0\.5 of it is nothing$"):
        plan(request_for(write("a", RGB), epochs=0.5))


def test_too_many_epochs_are_one_line(request_for, write):
    with pytest.raises(DataError, match=r"^--epochs 100: recipe 'a': stages\.0\.epochs: 2000 [^\n]*$"):
        plan(request_for(write("a", RGB.replace("epochs: 2", "epochs: 20")), epochs=100))


def test_a_change_can_be_for_one_recipe(request_for, write):
    a, b = write("a", RGB), write("b", RGB)
    cells = plan(request_for(a, b, changes=("batch=2", "b:stages.0.epochs=5", "model.head.width=8")))
    assert [cell.recipe.batch for cell in cells] == [2, 2]
    assert [cell.recipe.stages[0].epochs for cell in cells] == [2, 5]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"seeds": 0}, "--seeds 0: expected 1 or more"),
        ({"jobs": 0}, "--jobs 0: expected 1 or more"),
        ({"labels": 0.0}, "--labels 0.0: expected a share"),
        ({"labels": 1.5}, "--labels 1.5: expected a share"),
        ({"holdout": 1.0}, "--holdout 1.0: expected a share"),
        ({"report": "tset"}, "no split 'tset'; there is train, val"),
        ({"report": "unlabelled"}, "split 'unlabelled' has no labels, so it cannot be reported"),
        ({"report": "train"}, "12 pairs of the reported split 'train' .* are used in training too"),
        ({"changes": ("batch",)}, "--set batch: expected key=value"),
        ({"changes": ("c:batch=2",)}, "--set c:batch=2: no recipe 'c' is compared; there is a, b"),
        ({"changes": ("seed=3",)}, "--set seed=3: the seeds are 0 … N-1; say --seeds N"),
        ({"changes": ("a:stages.0.groups.0.match=nose",)}, "'nose' matches nothing"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(request_for, write, stand_in, fields, error):
    with pytest.raises((DataError, FusionError), match=error) as caught:
        compare(request_for(write("a", RGB), write("b", RGB), **fields), stand_in.train)
    assert "\n" not in str(caught.value)
    assert stand_in.calls() == []


def test_two_recipes_of_one_name_are_refused(request_for, write, tmp_path, stand_in):
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / "a.yaml"
    twin.write_text(Path(write("a", RGB)).read_text())
    with pytest.raises(DataError, match="two recipes are called 'a'"):
        compare(request_for(write("a", RGB), str(twin)), stand_in.train)


def test_a_folder_of_another_recipe_or_other_data_is_refused(request_for, write, stand_in):
    path = write("a", RGB)
    compare(request_for(path), stand_in.train)
    with pytest.raises(DataError, match=r"recipe.yaml: that run was trained with another recipe"):
        compare(request_for(path, changes=("batch=2",)), stand_in.train)
    with pytest.raises(DataError, match=r"run.json: that run was trained with another data"):
        compare(request_for(path, report="val"), stand_in.train)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": {"torch": "1.0"}}, "torch 1.0, now "),
        ({"versions": {"rgbt-fusion": "0.0.1", "timm": "0.1"}}, "rgbt-fusion 0.0.1, now .*; timm 0.1, now "),
        ({"accelerator": "cuda"}, "accelerator cuda, now cpu"),
        ({"precision": "bf16-mixed"}, "precision bf16-mixed, now 32-true"),
        ({"versions": {}}, None),
    ],
)
def test_what_was_made_otherwise_is_refused(request_for, write, stand_in, changes, words):
    asked = request_for(write("a", RGB), accelerator="cpu")
    compare(asked, stand_in.train)
    path = asked.out / "runs" / "a" / "seed-0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if words is None:  # it says nothing of its versions
        compare(asked, fails)
        return
    with pytest.raises(DataError, match=f"run.json: that run was made by {words}") as caught:
        compare(asked, fails)
    assert "\n" not in str(caught.value)


def test_device_and_precision_are_handed_on(request_for, write, stand_in):
    asked = request_for(write("a", RGB), accelerator="cpu", precision="bf16-mixed")
    result = compare(asked, stand_in.train)
    note = json.loads((asked.out / "runs" / "a" / "seed-0" / "run.json").read_text())
    assert (note["accelerator"], note["precision"]) == ("cpu", "bf16-mixed")
    assert (result.machine["accelerator"], result.machine["precision"]) == ("cpu", "bf16-mixed")
    with pytest.raises(DataError, match="--precision 16-mixed: needs a CUDA device, found cpu"):
        plan(request_for(write("b", RGB), accelerator="cpu", precision="16-mixed"))


# ── what may be claimed


def answers(cell, hits):
    """Records of the reported split in which ``hits`` (a share of the boxes, drawn by ``seed``) are found."""
    rng = np.random.default_rng(cell.recipe.seed)
    records = []
    for sample in cell.setting.source.samples(cell.setting.reported):
        found = sample.boxes[rng.random(len(sample.boxes)) < hits]
        kinds = sample.labels[: len(found)] * 0
        boxes = np.concatenate([found, np.full((len(found), 1), 0.9), kinds[:, None]], 1).astype(np.float32)
        records.append(Record(boxes, sample.boxes, sample.labels * 0))
    return records


@pytest.fixture
def finished(request_for, write):
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


def fails(*_args, **_more):
    raise AssertionError("a finished cell was trained again")


def test_a_win_is_claimed_only_where_the_interval_excludes_0(request_for, write, finished):
    sure = {None: 1.0, "rgb": 0.9, "thermal": 0.2}
    recipes = {"base": {None: 0.5}, "sure": sure, "same": {None: 0.5}, "bad": {None: 0.05}}
    paths = [
        write(name, RGB, sensors="[rgb]" if len(rows) == 1 else "[rgb, thermal]") for name, rows in recipes.items()
    ]
    result = finished(request_for(*paths, seeds=2), recipes)
    rows = {line.name: line for line in result.rows}
    assert list(rows) == ["base", "sure", "same", "bad", "sure, rgb absent", "sure, thermal absent"]
    assert [rows[name].verdict for name in recipes] == [None, "better", None, "worse"]
    assert rows["base"].ap50.difference is None
    assert rows["same"].ap50.difference.mean == 0
    assert rows["sure"].ap50.difference.low > 0
    assert rows["sure"].ap50.mean == pytest.approx(1.0)
    assert rows["sure"].map == 0.5
    assert len(rows["bad"].ap50.per_seed) == 2
    assert (rows["sure, rgb absent"].recipe, rows["sure, rgb absent"].absent) == ("sure", "rgb")
    changes = rows["sure"].without
    assert list(changes) == ["rgb", "thermal"]
    for sensor, change in changes.items():
        alone = rows[f"sure, {sensor} absent"]
        assert change.mean == pytest.approx(alone.ap50.mean - rows["sure"].ap50.mean) and change.mean < 0
        assert change.low < change.mean < change.high
        assert not alone.without
    assert changes["thermal"].high < changes["rgb"].low
    assert not rows["base"].without


def test_json_text_and_page_say_the_same(request_for, write, finished):
    asked = request_for(write("base", RGB, FUSE), write("more", RGB, PRE, FUSE, ALL), seeds=2, select="last")
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
        assert f"{line.ap50.mean:.3f} [{line.ap50.low:.3f}, {line.ap50.high:.3f}]" in text
        assert f"{line.ap50.mean:.3f} <" in page
    assert "warning: the recipes differ" in text
    assert "<strong>better</strong>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count('<svg class="plot') == 2


def test_the_table_says_what_the_absence_of_a_sensor_does(request_for, write, finished):
    asked = request_for(write("base", RGB, sensors="[rgb]"), write("both", ALL))
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
def test_few_validation_pictures_are_told_where_they_choose(request_for, write, finished, stage, fields, told):
    asked = request_for(write("a", stage), report="val", **fields)
    warnings = finished(asked, {"a": {None: 0.4}}).warnings
    words = "what selects or guards in a is 2 pairs from the end of train"
    found = [text for text in warnings if text.startswith(words) and "with fewer than 20 pictures" in text]
    assert bool(found) == told == any("largely chance" in text for text in warnings)


def test_what_watches_the_training_is_named(request_for, write, finished):
    guarded = ALL.replace("epochs: 2,", "epochs: 2, ema: 0.9, guard: {metric: val_loss},")
    asked = request_for(write("plain", ALL), write("guarded", guarded), report="val")
    plain, guarded = finished(asked, {"plain": {None: 0.4}, "guarded": {None: 0.4}}).efforts
    assert plain.selection.startswith("each stage's best epoch on 2 pairs from the end of train, which are cut off")
    assert "as a moving average of the weights; the guard on 2 pairs from the end of train" in guarded.selection


def test_rgbt_compare_in_earnest(write, synthetic_card, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["compare", write("rgb", RGB, sensors="[rgb]"), write("staged", RGB, FUSE), "--data", str(synthetic_card)]
    words += ["--seeds", "1", "--out", str(out), "--set", "stages.0.epochs=1", "--set", "staged:stages.1.epochs=1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "staged, thermal absent" in printed
    assert "one seed" in printed
    assert (out / "compare.html").exists()
    log = (out / "runs" / "staged" / "seed-0" / "log.txt").read_text()
    assert "fuse" in log
    assert "\r" not in log
    assert len(list((out / "stages").glob("*/model.safetensors"))) == 3
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "test"
    assert main([*words[:2], *words[3:], "--report", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("rgbt: error: ")
