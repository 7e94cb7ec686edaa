"""rgbt evaluate for every task: rows of what is done to the pairs, in table, JSON and page, through the real main()."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.augment.degrade import DEGRADATIONS
from data.card import DatasetCard, ImageLabels
from data.errors import DataError
from pipelines import evaluate as module
from pipelines.cli import main
from pipelines.evaluate import measure, open_subject, table
from pipelines.evaluation import Evaluation, Row
from pipelines.subject import Subject

MAIN = {"detect": "ap50", "segment": "miou", "classify": "accuracy"}
FURTHER = {"detect": "map", "segment": "miou_foreground", "classify": "macro_f1"}
SCENES = ("day", "night", "fog")
RECIPE = """
about: small
model:
  size: [64, 96]
  sensors: {sensors}
  rgb: {{arch: test_resnet, weights: null}}
  thermal: {{arch: test_resnet}}
  head: {{kind: {task}, width: 16}}
batch: 4
workers: 0
stages:
  - {{name: all, epochs: 1, groups: [{{match: "*", lr: 1.0e-3}}]}}
"""
each_task = pytest.mark.parametrize("task", list(MAIN))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def card_path(synthetic_card, tmp_path_factory):
    """The synthetic card with labels for all tasks; a pair's class is its number modulo 3."""
    card, home = DatasetCard.load(synthetic_card), tmp_path_factory.mktemp("card")
    splits = {
        name: split.model_copy(update={"file": None, "coco": None, "ids": tuple(s.id for s in card.samples(name))})
        for name, split in card.splits.items()
    }
    lines = [f"{one},{SCENES[i % 3]}" for name in ("train", "val", "test") for i, one in enumerate(splits[name].ids)]
    (home / "kinds.csv").write_text("\n".join(["id,label", *lines]))
    changes = {
        "root": str(card.folder.resolve()),
        "splits": splits,
        "rig": None,
        "image_classes": SCENES,
        "image_labels": ImageLabels(format="csv", path=str(home / "kinds.csv")),
    }
    DatasetCard.model_validate(card.model_dump() | {}).model_copy(update=changes).save(home / "card.yaml")
    return home / "card.yaml"


@pytest.fixture(scope="module")
def runs(card_path, tmp_path_factory):
    """Task → a fused run of it; ``rgb``: a classifier of RGB alone."""
    home = tmp_path_factory.mktemp("runs")
    made = {}
    for name, task, sensors in (*((t, t, "[rgb, thermal]") for t in MAIN), ("rgb", "classify", "[rgb]")):
        recipe = home / f"{name}.yaml"
        recipe.write_text(RECIPE.format(task=task, sensors=sensors))
        made[name] = home / name
        call = ["train", str(recipe), "--data", str(card_path), "--out", str(made[name]), "--accelerator", "cpu"]
        assert main([*call, "--logger", "none"]) == 0
    return made


def evaluated(run, card_path, capsys, *more):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(card_path), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


@each_task
def test_all_that_may_be_wrong_in_one_table_and_one_page(task, runs, card_path, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    asked = ["--split", "test", "--shift", "4", "--degrade", "night,glare,rgb_noise,thermal_noise", "--html", str(page)]
    result = evaluated(runs[task], card_path, capsys, *asked)
    names = ["fused", "fused, rgb absent", "fused, thermal absent", "fused, thermal moved 4 px", "fused, night",
             "fused, glare", "fused, rgb noise", "fused, thermal noise"]  # fmt: skip
    assert [row["name"] for row in result["rows"]] == names
    assert (result["task"], result["metrics"]) == (task, [MAIN[task], FURTHER[task]])
    whole, *others = result["rows"]
    assert whole["change"] is None
    for row in others:
        assert row["change"] == pytest.approx(row[MAIN[task]] - whole[MAIN[task]])
        assert 0 <= row[MAIN[task]] <= 1
    text = page.read_text()
    for name in names:
        assert text.count(name) >= 4  # table, plot for wide and narrow, pictures or alt text
    assert page.read_text().count("<img") == 2 * (6 + 7) - 2  # six pairs, one for each other row; two lack a sensor
    assert "Robustness" in text and ("What was taken for what" in text) == (task != "detect")
    saved = json.loads((runs[task] / "evaluation.json").read_text())
    assert [row[MAIN[task]] for row in saved["rows"]] == [row[MAIN[task]] for row in result["rows"]]
    assert main(["evaluate", str(runs[task]), "--data", str(card_path), "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert f"{whole[MAIN[task]]:.3f}" in printed and "report" in printed


def test_parts_of_each_task(runs, card_path):
    card = DatasetCard.load(card_path)
    found = (measure(open_subject(runs[task]), card, "test", without=()) for task in MAIN)
    detect, segment, classify = (json.loads(json.dumps(one.as_json())) for one in found)
    samples = card.samples("test")
    row = detect["rows"][0]
    assert set(row["per_size"]) <= {"small", "medium", "large"} and row["per_size"]
    assert sum(found["count"] for found in row["per_class"].values()) == sum(len(s.boxes) for s in samples)
    row = segment["rows"][0]
    assert np.array(row["confusion"]).shape == (len(card.classes) + 1,) * 2
    assert np.sum(row["confusion"]) == 6 * 64 * 96
    assert row["per_class"]["background"]["pixels"] == sum(row["confusion"][0])
    row = classify["rows"][0]
    assert np.array(row["confusion"]).sum(1).tolist() == [2, 2, 2]
    assert row["accuracy"] == pytest.approx(np.trace(row["confusion"]) / 6)


@each_task
def test_twice_the_same(task, runs, card_path):
    subject, card = open_subject(runs[task]), DatasetCard.load(card_path)
    once, again = (measure(subject, card, "test", degrade=["all"], shift=[1.5, 3]).as_json() for _ in range(2))
    assert once == again
    assert len(once["rows"]) == 3 + 2 + len(DEGRADATIONS)


def test_the_answers_are_another_where_the_pairs_are(runs, card_path):
    subject, card = open_subject(runs["segment"]), DatasetCard.load(card_path)
    found = measure(subject, card, "test", examples=2, degrade=["all"], shift=[6])
    clean, later, *changed = found.examples
    assert (clean.under, later.under) == ("", "") and len(changed) == 3 + len(DEGRADATIONS)
    for example in changed:
        same = example.rgb.tobytes() == clean.rgb.tobytes() and example.thermal.tobytes() == clean.thermal.tobytes()
        assert example.id == clean.id and not same, example.under
        assert example.truth["mask"].tobytes() == clean.truth["mask"].tobytes()
    assert all(
        len(records) == 6 * (4 if row.kind == "shift" else 1)
        for row, records in zip(found.rows, found.records, strict=True)
    )


def test_without_is_what_a_pair_without_the_file_is(runs, card_path):
    """Zeros and absent, so that the answer is the one of thermal alone."""
    card = DatasetCard.load(card_path)
    subject = open_subject(runs["classify"])
    seen = []
    spy = Subject(subject.path, subject.task, lambda p: (seen.append(p), subject.predict(p))[1], *_rest(subject))
    rows = measure(spy, card, "test", without=["rgb"]).rows
    assert [row.name for row in rows] == ["fused, rgb absent"] and rows[0].sensors == ("thermal",)
    assert len(seen) == 6
    assert all(pair.present.tolist() == [0, 1] and not pair.rgb.any() and pair.thermal.any() for pair in seen)


def _rest(subject):
    return subject.sensors, subject.inputs, subject.classes


def test_beside_other_runs_under_the_same_conditions(runs, card_path, capsys):
    more = ("--beside", str(runs["rgb"]), str(runs["classify"]), "--degrade", "night,thermal_noise", "--shift", "2")
    names = [row["name"] for row in evaluated(runs["classify"], card_path, capsys, *more)["rows"]]
    assert names[6:] == ["rgb only", "rgb only, night", "classify: fused", "classify: fused, thermal moved 2 px",
                         "classify: fused, night", "classify: fused, thermal noise"]  # fmt: skip


def test_two_models_of_one_sensor_are_told_apart(runs, card_path, tmp_path, capsys):
    shutil.copytree(runs["rgb"], tmp_path / "other")
    rows = evaluated(runs["classify"], card_path, capsys, "--beside", str(runs["rgb"]), str(tmp_path / "other"))["rows"]
    assert [row["name"] for row in rows][3:] == ["rgb only", "other: rgb only"]


def test_a_model_of_one_sensor_is_made_worse_in_that_alone(runs, card_path):
    rows = measure(open_subject(runs["rgb"]), DatasetCard.load(card_path), "test", degrade=["all"]).rows
    of_rgb = [name for name, one in DEGRADATIONS.items() if one.sensor == "rgb"]
    assert [row.name for row in rows] == ["rgb only", *(f"rgb only, {n.replace('_', ' ')}" for n in of_rgb)]


WRONG = {
    "no such degradation": ("rgb", ["--degrade", "night,snow"], "no degradation 'snow': expected all, or any of night"),
    "without the only sensor": ("rgb", ["--without", "rgb"], "rgb looks at rgb alone: no sensor can be left out"),
    "shift of one sensor": ("rgb", ["--shift", "4"], "rgb looks at rgb alone: there is nothing for thermal"),
    "the other sensor": ("rgb", ["--degrade", "dead_pixels"], "'dead_pixels' changes thermal, but rgb looks at rgb"),
    "another task beside": ("rgb", ["--beside", "{detect}"], "it was trained to detect"),
    "nothing beside": ("rgb", ["--beside", "{rgb}/checkpoints"], "neither a bundle"),
    "a page that is a folder": ("rgb", ["--html", "{rgb}"], "is a folder; name a file in it"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_does_not_fit_is_one_line_before_anything_is_measured(case, runs, card_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_pair", None)
    run, more, words = WRONG[case]
    more = [word.format(**{name: str(path) for name, path in runs.items()}) for word in more]
    assert main(["evaluate", str(runs[run]), "--data", str(card_path), *more]) == 1
    error = capsys.readouterr().err.rpartition("\r")[2]
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_labels": None}, "image_labels: the card has none"),
        ({"image_classes": ("day", "fog", "night")}, r"classes are \['day', 'fog', 'night'\], but .* was trained on"),
        ({"rgb_size": (128, 192)}, r"rgb_size is \(128, 192\)"),
    ],
)
def test_a_card_that_does_not_fit(change, words, runs, card_path):
    card = DatasetCard.load(card_path)
    with pytest.raises(DataError, match=words):
        measure(open_subject(runs["classify"]), card.model_copy(update=change).at(card.path), "test")


def test_a_pair_that_nobody_labelled(runs, card_path, tmp_path):
    card = DatasetCard.load(card_path)
    table = tmp_path / "few.csv"
    table.write_text("id,label\n" + "\n".join(f"{s.id},day" for s in card.samples("test")[:5]))
    change = {"image_labels": ImageLabels(format="csv", path=str(table))}
    with pytest.raises(DataError, match=r"pair '.*' of split 'test' has no labels to measure against"):
        measure(open_subject(runs["classify"]), card.model_copy(update=change).at(card.path), "test")


@pytest.mark.parametrize(("run", "without"), [("classify", None), ("classify", ["thermal"]), ("rgb", None)])
def test_a_pair_that_a_row_leaves_nothing_of(run, without, runs, card_path, monkeypatch):
    card, whole = DatasetCard.load(card_path), DatasetCard.samples
    monkeypatch.setattr(module, "load_pair", None)
    monkeypatch.setattr(
        DatasetCard, "samples", lambda self, split: [replace(s, sensors=("thermal",)) for s in whole(self, split)]
    )
    with pytest.raises(DataError, match=r"pair '.*' of split 'test' has only thermal, .* measured with rgb alone"):
        measure(open_subject(runs[run]), card, "test", without)


@pytest.mark.parametrize("text", ["", "0", "-2", "nan", "four", "1,,2"])
def test_pixels_are_numbers_above_0(text, capsys):
    assert main(["evaluate", "run", "--data", "card.yaml", f"--shift={text}"]) == 2
    assert "expected pixels above 0" in capsys.readouterr().err


def test_each_picture_is_read_once(runs, card_path, monkeypatch):
    read = []
    whole = module.load_pair
    monkeypatch.setattr(module, "load_pair", lambda sample, *more: (read.append(sample.id), whole(sample, *more))[1])
    measure(open_subject(runs["classify"]), DatasetCard.load(card_path), "test", degrade=["all"], shift=[2])
    assert len(read) == len(set(read)) == 6


def test_text_says_change_and_what_is_not_there():
    rows = [
        Row("fused", ("rgb", "thermal"), {"miou": 0.5, "miou_foreground": 0.4}, {"car": {"iou": 0.4}}),
        Row("fused, night", ("rgb", "thermal"), {"miou": 0.25, "miou_foreground": 0.1}, {}, kind="degraded"),
        Row("rgb only", ("rgb",), {"miou": 0.3, "miou_foreground": 0.1}, {"background": {"iou": 0.9}}),
    ]
    evaluation = Evaluation("card.yaml", "test", 7, ("car", "tram"), "segment", rows)
    assert evaluation.changes() == [None, -0.25, None]
    _, head, *lines = table(evaluation).splitlines()
    assert head.split() == ["mIoU", "mIoU", "fg", "change", "background", "car"]
    assert [re.split(r"  +", line) for line in lines] == [
        ["fused", "0.500", "0.400", "–", "0.400"],
        ["fused, night", "0.250", "0.100", "-0.250", "–", "–"],
        ["rgb only", "0.300", "0.100", "0.900", "–"],
    ]
