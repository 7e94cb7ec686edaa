"""Recipes × seeds: what is trained once, what is never trained again, what is refused, and what one failure does."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from data.errors import DataError
from fusion.errors import FusionError, Stopped
from pipelines.cli import main
from pipelines.compare import compare
from pipelines.compare_plan import plan

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


def fails(*_args, **_more):
    raise AssertionError("a finished cell was trained again")


def stages_of(calls):
    """(recipe, seed, stage) of each stage that was trained, in order, once."""
    return list(dict.fromkeys((name, int(seed), stage) for name, seed, stage, *_ in calls))


def test_a_shared_prefix_trains_once_and_a_finished_cell_never_again(small_recipe, compare_request, stand_in):
    staged, frozen = small_recipe("staged", RGB, FUSE, ALL), small_recipe("frozen", RGB, FUSE)
    result = compare(compare_request(staged, frozen, seeds=2), stand_in.train)
    wanted = [("staged", seed, stage) for seed in (0, 1) for stage in ("rgb-task", "fuse", "all")]
    assert stages_of(stand_in.calls()) == wanted
    assert [effort.shared_seconds for effort in result.efforts] == [0, 8]
    assert [effort.seconds for effort in result.efforts] == [12, 8]
    compare(compare_request(staged, frozen, seeds=2), stand_in.train)
    assert stand_in.calls() == []
    other = small_recipe("other", RGB, ALL)
    compare(compare_request(staged, frozen, other, seeds=2), stand_in.train)
    assert stages_of(stand_in.calls()) == [("other", 0, "all"), ("other", 1, "all")]


def test_a_cell_that_was_stopped_is_gone_on_with(small_recipe, compare_request, stand_in):
    asked = compare_request(small_recipe("one", RGB, FUSE), seeds=2)

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
    told = "each epoch is measured on the card's split 'val' (6 pairs); what is reported on test"
    said = [line for line in log if line]
    assert said == [told, "rgb-task is done", told, "fuse is done"], "begun and gone on with; no line of a progress bar"


def test_two_at_a_time_share_a_prefix_and_have_one_thread_each(small_recipe, compare_request, stand_in, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("pipelines.compare_jobs.cores", lambda: 2)
    staged, frozen = small_recipe("staged", RGB, ALL), small_recipe("frozen", RGB, FUSE)
    compare(compare_request(staged, frozen, jobs=2, report="test"), stand_in.train)
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
def test_a_cell_that_fails_is_named(small_recipe, compare_request, stand_in, name, error, jobs):
    with pytest.raises((DataError, FusionError), match=error):
        compare(compare_request(small_recipe(name, RGB), jobs=jobs), stand_in.train)


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
def test_the_others_are_finished_when_one_fails(small_recipe, compare_request, stand_in, jobs, seeds, told):
    broken, good = small_recipe("broken", RGB, FUSE), small_recipe("good", RGB)
    asked = compare_request(broken, good, seeds=seeds, jobs=jobs)
    with pytest.raises(DataError) as caught:
        compare(asked, stand_in.train)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert stages_of(stand_in.calls()) == [("good", seed, "rgb-task") for seed in range(seeds)]
    assert not (asked.out / "compare.json").exists()
    assert compare(compare_request(good, seeds=seeds), fails).rows[0].name == "good"


def test_a_signal_stops_all_processes_and_loses_nothing(small_recipe, compare_request, stand_in, tmp_path, monkeypatch):
    asked = compare_request(small_recipe("long", RGB, FUSE), seeds=2, jobs=2)
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
def test_bad_input_is_one_line_before_anything_is_trained(compare_request, small_recipe, stand_in, fields, error):
    with pytest.raises((DataError, FusionError), match=error) as caught:
        compare(compare_request(small_recipe("a", RGB), small_recipe("b", RGB), **fields), stand_in.train)
    assert "\n" not in str(caught.value)
    assert stand_in.calls() == []


def test_two_recipes_of_one_name_are_refused(compare_request, small_recipe, tmp_path, stand_in):
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / "a.yaml"
    twin.write_text(Path(small_recipe("a", RGB)).read_text())
    with pytest.raises(DataError, match="two recipes are called 'a'"):
        compare(compare_request(small_recipe("a", RGB), str(twin)), stand_in.train)


def test_a_folder_of_another_recipe_or_other_data_is_refused(compare_request, small_recipe, stand_in):
    path = small_recipe("a", RGB)
    compare(compare_request(path), stand_in.train)
    with pytest.raises(DataError, match=r"recipe.yaml: that run was trained with another recipe"):
        compare(compare_request(path, changes=("batch=2",)), stand_in.train)
    with pytest.raises(DataError, match=r"run.json: that run was trained with another data"):
        compare(compare_request(path, report="val"), stand_in.train)


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
def test_what_was_made_otherwise_is_refused(compare_request, small_recipe, stand_in, changes, words):
    asked = compare_request(small_recipe("a", RGB), accelerator="cpu")
    compare(asked, stand_in.train)
    path = asked.out / "runs" / "a" / "seed-0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if words is None:  # it says nothing of its versions
        compare(asked, fails)
        return
    with pytest.raises(DataError, match=f"run.json: that run was made by {words}") as caught:
        compare(asked, fails)
    assert "\n" not in str(caught.value)


def test_device_and_precision_are_handed_on(compare_request, small_recipe, stand_in):
    asked = compare_request(small_recipe("a", RGB), accelerator="cpu", precision="bf16-mixed")
    result = compare(asked, stand_in.train)
    note = json.loads((asked.out / "runs" / "a" / "seed-0" / "run.json").read_text())
    assert (note["accelerator"], note["precision"]) == ("cpu", "bf16-mixed")
    assert (result.machine["accelerator"], result.machine["precision"]) == ("cpu", "bf16-mixed")
    with pytest.raises(DataError, match="--precision 16-mixed: needs a CUDA device, found cpu"):
        plan(compare_request(small_recipe("b", RGB), accelerator="cpu", precision="16-mixed"))


def test_rgbt_compare_in_earnest(small_recipe, synthetic_card, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "compare",
        small_recipe("rgb", RGB, sensors="[rgb]"),
        small_recipe("staged", RGB, FUSE),
        "--data",
        str(synthetic_card),
    ]
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
