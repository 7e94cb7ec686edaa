"""What the README says to type is what the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.cli import _parser
from pipelines.recipe_file import load_recipe, shipped
from pipelines.train import stage_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^rgbt .*?$", README, re.MULTILINE)


def test_the_readme_shows_the_journeys():
    first_words = {shlex.split(command, comments=True)[1] for command in COMMANDS}
    assert {"data", "recipe", "train", "evaluate", "compare", "export", "verify", "bench", "live"} <= first_words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_is_one(command):
    arguments = shlex.split(command, comments=True)[1:]
    parsed = _parser(arguments).parse_args(arguments)
    assert callable(parsed.run)
    if getattr(parsed, "recipe", None):
        assert parsed.recipe in shipped()


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
