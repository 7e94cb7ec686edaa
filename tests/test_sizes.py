"""The shipped sizes: a recipe names one, and the resolved recipe holds its architectures and nothing else."""

import pytest
import yaml

from data.errors import DataError
from fusion.model import ModelSection
from fusion.sizes import SIZES, with_size
from pipelines.recipe_file import dump_recipe, load_recipe

SECTION = {"size": [64, 64], "rgb": {"weights": None}, "thermal": {"start": "copied"}}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_names_both_branches(name):
    section = ModelSection.model_validate({**SECTION, "encoders": name})
    assert (section.rgb.arch, section.thermal.arch) == SIZES[name][:2]
    assert section.thermal.start == "copied"
    assert "encoders" not in section.model_dump()
    assert section == ModelSection.model_validate(section.model_dump())


def test_a_size_takes_the_place_of_what_a_recipe_names():
    recipe = load_recipe("staged", ["model.encoders=base"])
    assert (recipe.model.rgb.arch, recipe.model.thermal.arch) == ("resnet18", "resnet18")
    assert recipe.model.rgb.weights == "pretrained"
    assert recipe.model.thermal.start == "copied"


def test_the_resolved_recipe_is_the_one_that_names_the_architectures():
    named = [f"model.{branch}.arch=resnet18" for branch in ("rgb", "thermal")]
    by_size, by_name = load_recipe("staged", ["model.encoders=base"]), load_recipe("staged", named)
    assert dump_recipe(by_size) == dump_recipe(by_name)
    assert "encoders" not in yaml.safe_load(dump_recipe(load_recipe("staged")))["model"]


def test_a_recipe_file_may_say_a_size_alone(tmp_path):
    content = yaml.safe_load(dump_recipe(load_recipe("staged")))
    del content["model"]["rgb"]["arch"], content["model"]["thermal"]
    content["model"]["encoders"] = "edge"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_recipe(str(path)).model.thermal.arch == SIZES["edge"].thermal


@pytest.mark.parametrize("value", ["huge", "3", "[edge]", "null"])
def test_an_unknown_size_is_one_line(value):
    with pytest.raises(DataError, match=r"encoders: unknown size .* one of edge, base, large") as caught:
        load_recipe("staged", [f"model.encoders={value}"])
    assert "\n" not in str(caught.value)
    assert "staged.yaml" in str(caught.value)


def test_a_branch_that_is_no_mapping_is_left_to_pydantic():
    assert with_size({"encoders": "edge", "rgb": 3}) == {"rgb": 3, "thermal": {"arch": SIZES["edge"].thermal}}
