"""What rgbt compare plans: which pictures train, select and are reported, and equal steps with fewer labels."""

import pytest

from data.card import DatasetCard
from data.errors import DataError
from fusion.errors import FusionError
from pipelines.compare_plan import plan
from pipelines.compare_setting import choose_setting
from pipelines.recipe_file import TrainRecipe

RGB = '  - {name: rgb-task, sensors: [rgb], epochs: 2, groups: [{match: "rgb.*|head", lr: 1.0e-3}]}\n'
PRE = '  - {name: pre, objective: autoencode, epochs: 3, groups: [{match: "thermal.*|objective", lr: 1.0e-3}]}\n'


def ids(card, split):
    return [sample.id for sample in card.samples(split)]


def test_test_is_reported_and_val_selects(compare_request, small_recipe, synthetic_card):
    setting = choose_setting(compare_request(small_recipe("one", RGB)), "detect")
    card = DatasetCard.load(synthetic_card)
    assert (setting.reported, setting.pictures, setting.leaks) == ("test", 6, 0)
    assert ids(setting.card, "train") == ids(card, "train")
    assert ids(setting.card, "val") == ids(card, "val")
    assert "split 'val'" in setting.validation


def test_where_val_is_reported_a_part_of_train_selects(compare_request, small_recipe, synthetic_card):
    setting = choose_setting(compare_request(small_recipe("one", RGB), report="val", holdout=0.25), "detect")
    train = ids(DatasetCard.load(synthetic_card), "train")
    assert setting.reported == "val"
    assert ids(setting.card, "train") == train[:9]
    assert ids(setting.card, "val") == train[9:]
    assert "3 pairs from the end of train, which are cut off" in setting.validation


def test_with_the_last_epoch_all_of_train_is_trained_on(compare_request, small_recipe, synthetic_card):
    asked = compare_request(small_recipe("one", RGB), report="val", select="last", holdout=0.25)
    setting = choose_setting(asked, "detect")
    train = ids(DatasetCard.load(synthetic_card), "train")
    assert ids(setting.card, "train") == train
    assert ids(setting.card, "val") == train[9:]
    assert "in-sample" in setting.validation
    assert {cell.recipe.select for cell in plan(asked)} == {"last"}


def test_fewer_labels_at_equal_steps(compare_request, small_recipe):
    path = small_recipe("one", RGB, PRE)
    (whole,) = plan(compare_request(path))
    (few,) = plan(compare_request(path, labels=1 / 3))
    assert len(ids(few.setting.card, "train")) == 4
    assert len(ids(few.setting.card, "unlabelled")) == 6 + 8
    assert few.recipe.repeat == 3
    assert few.work[0].steps == whole.work[0].steps == 3
    assert few.work[0].pictures == 4
    assert few.work[1].pictures == whole.work[1].pictures == 18
    assert set(few.keys).isdisjoint(whole.keys)


def test_passes_come_from_the_pairs_that_are_trained_on(compare_request, small_recipe):
    """Of 12 pairs 2 are cut off, of 6 only 1: 10 are to 5 as they are, however many were asked for."""
    asked = {"report": "val", "changes": ("batch=2",)}
    (whole,) = plan(compare_request(small_recipe("one", RGB), **asked))
    (few,) = plan(compare_request(small_recipe("one", RGB), labels=0.5, **asked))
    assert (len(ids(whole.setting.card, "train")), len(ids(few.setting.card, "train"))) == (10, 5)
    assert (few.recipe.repeat, few.work[0].steps, whole.work[0].steps) == (2, 5, 5)
    (odd,) = plan(compare_request(small_recipe("one", RGB), labels=0.75, changes=("batch=1", "repeat=3")))
    assert (odd.recipe.repeat, odd.work[0].steps) == (4, 36)


@pytest.mark.parametrize(
    ("share", "more", "error"),
    [
        (0.7, {}, r"--labels 0.7: 8 of 12 pairs make 2 steps in an epoch, all of them 3 \(recipe 'a'\); .*: 0.6 or 1$"),
        (0.4, {"changes": ("b:batch=2",)}, r"--labels 0.4: 5 of 12 .* \(recipe 'b'\); .*: 0.3 or 0.5$"),
    ],
)  # fmt: skip
def test_a_share_that_allows_no_equal_steps_is_refused(compare_request, small_recipe, share, more, error):
    a, b = small_recipe("a", RGB), small_recipe("b", RGB)
    with pytest.raises(DataError, match=error) as caught:
        plan(compare_request(a, b, labels=share, **more))
    whole = plan(compare_request(a, b, **more))
    for text in str(caught.value).rpartition(": ")[2].split(" or "):
        cells = plan(compare_request(a, b, labels=float(text), **more))
        assert [cell.work[0].steps for cell in cells] == [cell.work[0].steps for cell in whole]


def test_epochs_that_a_recipe_cannot_have_are_one_line(compare_request, small_recipe, monkeypatch):
    def scaled(self, share):
        raise FusionError(f"stages.0.unfreeze: {share} of it is nothing")

    monkeypatch.setattr(TrainRecipe, "scaled", scaled)
    with pytest.raises(DataError, match=r"^--epochs 0\.5: recipe 'a': stages\.0\.unfreeze: 0\.5 of it is nothing$"):
        plan(compare_request(small_recipe("a", RGB), epochs=0.5))


def test_too_many_epochs_are_one_line(compare_request, small_recipe):
    with pytest.raises(DataError, match=r"^--epochs 100: recipe 'a': stages\.0\.epochs: 2000 [^\n]*$"):
        plan(compare_request(small_recipe("a", RGB.replace("epochs: 2", "epochs: 20")), epochs=100))


def test_a_change_can_be_for_one_recipe(compare_request, small_recipe):
    a, b = small_recipe("a", RGB), small_recipe("b", RGB)
    cells = plan(compare_request(a, b, changes=("batch=2", "b:stages.0.epochs=5", "model.head.width=8")))
    assert [cell.recipe.batch for cell in cells] == [2, 2]
    assert [cell.recipe.stages[0].epochs for cell in cells] == [2, 5]
