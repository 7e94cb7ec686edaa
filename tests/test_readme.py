"""What the README says to type is what the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from data.augment.degrade import DEGRADATIONS
from fusion.heads import HEADS
from pipelines.cli import _parser
from pipelines.recipe_file import load_recipe, shipped
from pipelines.robustness import choose
from pipelines.train import stage_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^rgbt .*?$", README, re.MULTILINE)


def test_the_readme_shows_the_journeys():
    first_words = {shlex.split(command, comments=True)[1] for command in COMMANDS}
    assert {"data", "recipe", "train", "evaluate", "compare", "export", "verify", "bench", "live"} <= first_words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_is_one(command):
    arguments = parsed(command)
    assert callable(arguments.run)
    if getattr(arguments, "recipe", None):
        assert arguments.recipe in shipped()


def parsed(command):
    arguments = shlex.split(command, comments=True)[1:]
    return _parser(arguments).parse_args(arguments)


def test_the_readme_shows_every_task_and_its_heads_can_be_asked_for():
    trained = [parsed(command) for command in COMMANDS if command.startswith("rgbt train")]
    kinds = {load_recipe(one.recipe, one.set).model.head.kind for one in trained if one.recipe == "staged"}
    assert kinds == {"detect", "segment"} and "`classify`" in README
    for task in HEADS:
        assert load_recipe("staged", [f"model.head.kind={task}"]).model.head.kind == task
    (demo,) = [parsed(command) for command in COMMANDS if command.startswith("rgbt demo")]
    assert demo.task == "segment"


def test_the_readme_says_how_to_measure_what_is_left_when_something_is_wrong():
    (asked,) = [one for command in COMMANDS if (one := parsed(command)) and getattr(one, "degrade", None)]
    whole, *rows = choose("first", ("rgb", "thermal"), asked.without, asked.shift, asked.degrade)
    assert whole.kind == "whole" and asked.html.name.endswith(".html")
    kinds = [row.kind for row in rows]
    assert kinds == ["absent"] * 2 + ["shift"] * 3 + ["degraded"] * len(DEGRADATIONS)
    assert all(len(row.changes) == 4 for row in rows if row.kind == "shift")
    assert {"night", "glare", "fog", "dead_pixels"} <= DEGRADATIONS.keys()


def test_the_recipe_of_the_readme_is_sound(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    stages, _ = stage_table(load_recipe(str(path)))
    assert "thermal-pretrain: 10 epochs, distill" in stages and "onecycle" in stages


def test_nothing_was_left_to_fill_in():
    assert not re.findall(r"@[A-Z_]+@", README)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_what_the_readme_links_to_is_there(target):
    assert (ROOT / target).exists()


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
