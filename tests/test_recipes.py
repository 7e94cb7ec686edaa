"""Recipes on disk: every shipped one is sound, and a wrong one is told in one line with its place."""

import pytest
import yaml

from data.errors import DataError
from pipelines.cli import main
from pipelines.recipe_file import dump_recipe, load_recipe, shipped
from pipelines.train import stage_table


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_plans_its_stages(name):
    recipe = load_recipe(name)
    table, counts = stage_table(recipe)
    for stage in recipe.stages:
        assert f"{stage.name}: {stage.epochs} epochs" in table
    assert sum(counts.values()) > 1e6


def labelled_epochs(name):
    return sum(stage.epochs for stage in load_recipe(name).stages if stage.objective == "task")


@pytest.mark.parametrize("name", ["staged", "staged-day", "demo", "demo-segment", "demo-classify"])
def test_single_sensor_baselines_have_the_same_labelled_epochs_encoder_and_head(name):
    prefix = f"{name}-" if name.startswith("demo") else ""
    whole = load_recipe(name)
    for sensor in ("rgb", "thermal"):
        alone = load_recipe(f"{prefix}{sensor}-only")
        assert labelled_epochs(f"{prefix}{sensor}-only") == labelled_epochs(name)
        assert alone.model.sensors == (sensor,)
        assert (alone.model.rgb, alone.model.thermal, alone.model.head) == (
            whole.model.rgb,
            whole.model.thermal,
            whole.model.head,
        )
        assert (alone.augment, alone.batch, alone.model.size) == (whole.augment, whole.batch, whole.model.size)


WHOLE = """about: all that a stage can be
model:
  size: [64, 96]
  rgb: {arch: test_resnet, weights: pretrained}
  thermal: {arch: test_resnet}
stages:
  - name: thermal-pretrain
    objective: autoencode
    epochs: 6
    groups: [{match: "thermal.*|objective", lr: 2.0e-3}]
  - name: thermal-task
    sensors: [thermal]
    epochs: 12
    groups: [{match: "thermal.*|head", lr: 2.0e-3}]
  - name: fuse
    epochs: 2
    modality_dropout: 0.1
    groups: [{match: "blend.*|head", lr: 2.0e-3}]
  - name: unfreeze
    epochs: 26
    groups: [{match: "*", lr: 1.0e-3}]
    unfreeze: {branch: both, from: last, every: 2}
    guard: {metric: val_loss}
"""


@pytest.fixture
def whole(tmp_path):
    """Path of a recipe that stays as it is, whatever is shipped."""
    path = tmp_path / "whole.yaml"
    path.write_text(WHOLE)
    return str(path)


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(load_recipe("staged", ["batch=3"])))
    assert load_recipe(str(path)) == load_recipe("staged", ["batch=3"])


def test_changes_from_the_command_line():
    recipe = load_recipe(
        "staged", ["stages.0.epochs=2", "model.blend.anchor=thermal", "model.rgb.weights=null", "augment.flip=0"]
    )
    assert recipe.stages[0].epochs == 2
    assert recipe.model.blend.anchor == "thermal"
    assert recipe.model.rgb.weights is None
    assert recipe.augment.flip == 0


def test_a_variant_changes_its_parent_key_by_key(tmp_path):
    (tmp_path / "base.yaml").write_text(dump_recipe(load_recipe("staged")))
    child = tmp_path / "child.yaml"
    child.write_text("extends: base\nabout: mine\nmodel:\n  head: {width: 32}\n")
    assert load_recipe(str(child)).model.head.width == 32
    assert load_recipe(str(child)).model.rgb == load_recipe("staged").model.rgb


def test_a_users_recipe_may_extend_the_shipped_one_of_its_name(tmp_path):
    path = tmp_path / "staged.yaml"
    path.write_text("extends: staged\nabout: mine\nbatch: 3\n")
    assert load_recipe(str(path)).batch == 3


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    for name, parent in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {parent}\nabout: x\n")
    with pytest.raises(DataError, match="extends itself"):
        load_recipe(str(tmp_path / "one.yaml"))


def change(**fields):
    def apply(recipe):
        for place, value in fields.items():
            at = recipe
            *parents, last = place.split("__")
            for key in parents:
                at = at[int(key)] if key.isdigit() else at[key]
            at[last] = value

    return apply


BROKEN = {
    "unknown key": (change(stages__1__epoch=3), "unknown key 'stages.1.epoch'; did you mean 'epochs'?"),
    "rate below zero": (change(stages__0__groups__0__lr=-1), "stages.0.groups.0.lr"),
    "unknown blend": (change(model__blend={"kind": "magic"}), "unknown blend 'magic'; one of zero_residual, gated"),
    "unknown head": (change(model__head={"kind": "magic"}), "unknown head 'magic'; one of detect"),
    "unknown objective": (change(stages__0__objective="magic"), "unknown objective 'magic'; one of task, autoencode"),
    "no stages": (change(stages=[]), "stages"),
    "canvas not of 32": (change(model__size=[100, 100]), "model.size.0"),
    "sensor left out": (change(model__sensors=["rgb"]), "which model.sensors leaves out"),
    "no sensor": (change(model__sensors=[]), "expected rgb, thermal or both"),
    "a sensor twice": (change(model__sensors=["rgb", "rgb"]), "expected rgb, thermal or both"),
    "too many epochs": (change(stages__0__epochs=1000), "stages.0.epochs"),
    "two of a name": (change(stages__1__name="fuse"), "two stages have one name"),
    "metric that is not there": (
        change(stages__3__guard={"metric": "miou"}),
        "stages.3.guard.metric: stage 'unfreeze' has no figure 'miou'; one of val_loss, ap50, map, ap50_rgb",
    ),
    "metric of a stage without labels": (
        change(stages__0__early_stop={"metric": "ap50"}),
        "stages.0.early_stop.metric: stage 'thermal-pretrain' has no figure 'ap50'; one of val_loss",
    ),
    "a batch that does not split": (change(stages__1__accumulate=3), "stages.1.accumulate: a batch of 8"),
    "early fusion that pretrains": (change(model__blend={"kind": "early"}), "stages.0.objective: stage"),
    "auto without a task": (change(stages__0__unfreeze="auto"), "needs objective: task"),
    "optimiser's constant of another": (change(optimiser={"kind": "adamw", "momentum": 0.9}), "momentum"),
    "unknown optimiser": (change(optimiser={"kind": "lion"}), "optimiser"),
    "unknown schedule": (change(schedule={"kind": "steps"}), "unknown schedule 'steps'; one of constant, cosine"),
    "a stage that trains nothing": (
        change(stages__1__groups=[{"match": "rgb.*", "lr": 1e-3}]),
        "stages.1.groups.0.match: stage 'thermal-task' would train nothing",
    ),
    "a decoder left unmatched": (
        change(stages__0__groups=[{"match": "thermal.*", "lr": 1e-3}]),
        "stages.0.groups: stage 'thermal-pretrain': no group matches 'objective'",
    ),
    "distilling from what it trains": (
        change(stages__0__objective="distill", stages__0__groups=[{"match": "*", "lr": 1e-3}]),
        "stages.0.groups: stage 'thermal-pretrain' distils from the RGB branch, which must stay frozen",
    ),
    "weights unsaid": (lambda recipe: recipe["model"]["rgb"].pop("weights"), "'model.rgb.weights' is missing"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_a_broken_recipe_is_one_line_with_file_and_field(case, whole, tmp_path, capsys):
    spoil, words = BROKEN[case]
    content = yaml.safe_load(dump_recipe(load_recipe(whole)))
    spoil(content)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["recipe", "show", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"rgbt: error: {path}") and words in error
    assert error.count("\n") == 1


PLAN = """about: its plan does not fit
model:
  size: [64, 96]
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
stages:
  - name: pretrain
    objective: autoencode
    epochs: 1
    groups: [{match: "thermal.*|objective", lr: 1.0e-3}]
  - name: task
    sensors: [rgb]
    epochs: 1
    groups:
      - match: "rgb.*|head"
        lr: 1.0e-3
"""
MISFITS = {
    "misspelt pattern": (
        "rgb.*|head",
        "rgb.*|haed",
        15,
        "stages.1.groups.0.match: ",
        "'haed' matches nothing; near: head",
    ),
    "trains nothing": ("rgb.*|head", "thermal.*", 15, "stages.1.groups.0.match: ", "would train nothing"),
    "no decoder": ("|objective", "", 10, "stages.0.groups: ", "add objective.* to a group"),
    "no such metric": ("sensors: [rgb]", "early_stop: {metric: apx}", 12, "stages.1.early_stop.metric: ", "'apx'"),
    "no teacher": ("objective: autoencode", "objective: distill", 8, "stages.0.objective: ", "random weights"),
}


@pytest.mark.parametrize("case", list(MISFITS))
def test_a_plan_that_does_not_fit_names_file_line_and_field(case, tmp_path, capsys):
    old, new, line, field, words = MISFITS[case]
    path = tmp_path / "misfit.yaml"
    path.write_text(PLAN.replace(old, new))
    assert PLAN.count(old) == 1
    assert main(["recipe", "show", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"rgbt: error: {path}:{line}: {field}") and words in error
    assert error.count("\n") == 1


def test_a_plan_changed_from_the_command_line_names_the_nearest_line(tmp_path, capsys):
    path = tmp_path / "fits.yaml"
    path.write_text(PLAN)
    assert main(["recipe", "show", str(path), "--set", "stages.1.groups.0.match=haed"]) == 1
    assert capsys.readouterr().err.startswith(f"rgbt: error: {path}:15: stages.1.groups.0.match: ")


def test_where_a_recipe_was_read_says_nothing_of_what_it_is(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(PLAN + "# " * len(name))
    assert load_recipe(str(tmp_path / "one.yaml")) == load_recipe(str(tmp_path / "two.yaml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nonsense"], "no recipe 'nonsense': expected the path of a YAML file, or one of demo"),
        (["show", "staged", "--set", "batch"], "expected key=value"),
        (["show", "staged", "--set", "stages.9.epochs=1"], "there is no '9' to enter"),
        (["show", "staged", "--set", "batch.size=1"], "'batch' is a single value"),
        (["show", "staged", "--set", "stages.0.groups.0.match=rgb.blocks.7"], "matches nothing; near: rgb.blocks"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, words, capsys):
    assert main(["recipe", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_list_and_show(whole, capsys):
    assert main(["recipe", "list"]) == 0
    assert "staged " in capsys.readouterr().out
    assert main(["recipe", "show", whole]) == 0
    out = capsys.readouterr().out
    assert "thermal-pretrain: 6 epochs, autoencode" in out and "frozen  rgb[stem,0,1,2,3]" in out
    assert main(["recipe", "show", "staged", "--names"]) == 0
    assert "thermal.blocks.3" in capsys.readouterr().out


def test_a_variant_changes_its_parents_stages_by_name(tmp_path, whole):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: whole\nabout: x\nstages:\n  fuse: null\n  unfreeze: {epochs: 3, guard: null}\n")
    recipe = load_recipe(str(path))
    assert [stage.name for stage in recipe.stages] == ["thermal-pretrain", "thermal-task", "unfreeze"]
    assert (recipe.stages[-1].epochs, recipe.stages[-1].guard) == (3, None)
    assert recipe.stages[-1].groups == load_recipe(whole).stages[-1].groups


def test_a_variant_puts_a_new_stage_before_one_of_its_parents(tmp_path, whole):
    path = tmp_path / "mine.yaml"
    groups = '[{match: "head", lr: 1.0e-3}]'
    path.write_text(f"extends: whole\nabout: x\nstages:\n  warm: {{before: fuse, epochs: 3, groups: {groups}}}\n")
    names = [stage.name for stage in load_recipe(str(path)).stages]
    assert names[names.index("fuse") - 1] == "warm"


def test_a_stage_that_the_parent_lacks_is_refused_with_its_line(tmp_path, whole):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: whole\nabout: x\nstages:\n  fuze: {epochs: 3}\n")
    with pytest.raises(DataError, match=r"mine\.yaml:4: stages\.fuze: the parent has no such stage; it has thermal"):
        load_recipe(str(path))


def test_a_fault_in_a_changed_stage_is_told_with_its_own_line(tmp_path, whole):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: whole\nabout: x\nstages:\n  thermal-task: null\n  fuse:\n    epochs: 0\n")
    with pytest.raises(DataError, match=r"mine\.yaml:6: .*stages\.1\.epochs"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("{fuse: 5}", "mine.yaml:3: stages.fuse: expected the fields to change, such as {epochs: 5}, or null to "),
        ("{fuse: [1]}", "mine.yaml:3: stages.fuse: expected the fields to change"),
        ("{fuse: {name: [x]}}", "mine.yaml:3: "),
        ("{5: {epochs: 3}}", "mine.yaml:3: stages.5: the parent has no such stage"),
    ],
)
def test_a_change_that_is_none_is_one_line(stages, words, tmp_path, whole):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: whole\nabout: x\nstages: {stages}\n")
    with pytest.raises(DataError) as caught:
        load_recipe(str(path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("[1]", "base.yaml:2: stages.0: expected a mapping with a name, found 1"),
        ("[{name: a}, {epochs: 3}]", "base.yaml:2: stages.1: expected a mapping with a name, found {'epochs': 3}"),
        ("[{name: [a]}]", "base.yaml:2: stages.0: expected a mapping with a name"),
        ("5", "base.yaml:2: stages: expected a list of stages to change, found int"),
    ],
)
def test_a_parents_stages_that_cannot_be_changed_are_one_line(stages, words, tmp_path):
    (tmp_path / "base.yaml").write_text(f"about: x\nstages: {stages}\n")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: base\nstages:\n  a: {epochs: 3}\n")
    with pytest.raises(DataError) as caught:
        load_recipe(str(path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_parent_that_is_not_there_is_told_with_its_place(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: x\nextends: nobody\n")
    with pytest.raises(DataError, match=r"mine\.yaml:2: extends: no recipe 'nobody'"):
        load_recipe(str(path))


def test_a_stage_is_left_out_from_the_command_line(whole):
    names = [stage.name for stage in load_recipe(whole).stages]
    for name in names:
        found = load_recipe(whole, [f"stages.{name}=null"])
        assert [stage.name for stage in found.stages] == [one for one in names if one != name]
    assert load_recipe(whole, ["stages.fuse={epochs: 7}"]).stages == load_recipe(whole, ["stages.fuse.epochs=7"]).stages
    with pytest.raises(DataError, match=r"--set stages\.fuse=5: expected null .* stages\.fuse\.epochs=5"):
        load_recipe(whole, ["stages.fuse=5"])


def test_lines_follow_the_stages_when_one_is_left_out(tmp_path, capsys):
    path = tmp_path / "fits.yaml"
    path.write_text(PLAN.replace("rgb.*|head", "rgb.*|haed"))
    assert main(["recipe", "show", str(path), "--set", "stages.pretrain=null"]) == 1
    assert capsys.readouterr().err.startswith(f"rgbt: error: {path}:15: stages.0.groups.0.match: ")


def test_changes_reach_a_stage_by_its_name(whole):
    assert load_recipe(whole, ["stages.unfreeze.epochs=7"]).stages[-1].epochs == 7


def test_a_recipe_is_scaled_with_all_that_counts_in_epochs(whole):
    recipe = load_recipe(whole)
    half = recipe.scaled(0.5)
    assert [stage.epochs for stage in half.stages] == [3, 6, 1, 13]
    assert (recipe.stages[-1].unfreeze.every, half.stages[-1].unfreeze.every) == (2, 1)


@pytest.mark.parametrize("sensors", ["[thermal]", "[rgb, thermal]"])
def test_weights_that_are_not_there_fail_before_the_run_folder_is_made(sensors, synthetic_card, tmp_path, capsys):
    path = tmp_path / "copied.yaml"
    path.write_text(
        f"""about: starts from what is not there
model:
  size: [64, 96]
  sensors: {sensors}
  rgb: {{arch: test_resnet, weights: nowhere.pth}}
  thermal: {{arch: test_resnet, start: copied}}
workers: 0
stages:
  - {{name: task, epochs: 1, groups: [{{match: "thermal.*|head", lr: 1.0e-3}}]}}
"""
    )
    out = tmp_path / "run"
    assert main(["train", str(path), "--data", str(synthetic_card), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error == f"rgbt: error: {path}:5: model.rgb.weights: nowhere.pth: no such weights file\n"
    assert not out.exists()
