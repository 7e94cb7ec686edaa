"""What the trainer is handed: order, shares, resume, kinds, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from data.augment.augmenter import Augmenter
from data.card import DatasetCard, ImageLabels, Split
from data.errors import DataError
from data.images import write_image
from data.labels.masks import read_mask
from data.subset import subset
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import TrainRecipe

ORDER = (7, 1, 4, 0)


@pytest.fixture
def card(synthetic_card):
    return DatasetCard.load(synthetic_card)


def recipe(*objectives, sensors=("rgb", "thermal"), task="detect", **changes):
    stages = [
        {"name": f"s{k}", "objective": objective, "epochs": 1, "groups": [{"match": "*", "lr": 1e-3}]}
        for k, objective in enumerate(objectives or ("task",))
    ]
    model = {"size": [64, 96], "rgb": {"arch": "test_resnet", "weights": None}, "thermal": {"arch": "test_resnet"}}
    model["head"] = {"kind": task}
    return TrainRecipe.model_validate(
        {"about": "Test.", "model": model | {"sensors": list(sensors)}, "stages": stages, "batch": 4, "workers": 0}
        | changes
    )


def same(a, b):
    """Whether two batches are equal bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def equal(some, others):
    return len(some) == len(others) and all(map(same, some, others))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_that_makes_pictures_itself_keeps_freed_memory(card, monkeypatch, workers):
    called = []
    monkeypatch.setattr("pipelines.loaders.keep_freed_memory", lambda: called.append("kept"))
    CardLoaders(card, recipe("task", workers=workers))
    assert bool(called) is (workers == 0)


def test_boxes_without_area_are_left_out_with_one_warning(card, tmp_path):
    content = json.loads((card.path.parent / "boxes.json").read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] = 0
    (tmp_path / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    labels = card.labels.model_copy(update={"path": str(tmp_path / "boxes.json")})
    changed = card.model_copy(update={"labels": labels}).at(card.path)
    told = CardLoaders(changed, recipe()).warning
    assert told.startswith("warning: 1 boxes have no width or no height and are left out (first: ") and "json" in told
    assert CardLoaders(card, recipe()).warning == CardLoaders(changed, recipe(task="segment")).warning == ""


def ids(batches):
    return [one for batch in batches for one in batch["ids"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_skipped_leaves_the_tail_of_the_whole_epoch(card, workers):
    loaders = CardLoaders(card, recipe(repeat=2, workers=workers))
    alone = list(CardLoaders(card, recipe(repeat=2)).train("labelled", ORDER))
    assert len(alone) == 6
    for skip in (0, 2, 5, 6, 1):  # the workers live on; order and skip change
        batches = loaders.train("labelled", ORDER, skip)
        assert len(batches) == 6
        assert equal(list(batches), alone[skip:])
    assert not equal(list(loaders.train("labelled", (7, 1, 5, 0))), alone)
    assert equal(list(loaders.train("labelled", ORDER)), alone)


def test_what_is_skipped_is_not_read(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "card.yaml")
    loaders = CardLoaders(card, recipe())
    first, *rest = list(loaders.train("labelled", ORDER))
    for one in first["ids"]:
        (card.folder / "rgb" / f"{one}.jpg").unlink()
    assert equal(list(loaders.train("labelled", ORDER, 1)), rest)
    with pytest.raises(DataError, match="no such file"):
        list(loaders.train("labelled", ORDER))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_broken_off_leaves_nothing_behind(card, workers):
    """A rollback, or a stop: the workers still have batches of the former order in hand."""
    loaders = CardLoaders(card, recipe(repeat=3, workers=workers))
    expected = list(CardLoaders(card, recipe(repeat=3)).train("labelled", ORDER))
    broken = iter(loaders.train("labelled", (7, 1, 3, 0)))
    next(broken)
    assert equal(list(loaders.train("labelled", ORDER)), expected)


def test_asking_for_another_epoch_does_not_change_one_that_was_asked_for(card):
    loaders = CardLoaders(card, recipe("task", "distill"))
    batches = loaders.train("labelled", ORDER)
    assert (len(loaders.train("labelled", ("count",))), len(loaders.train("pairs", ("count",)))) == (3, 4)
    assert equal(list(batches), list(CardLoaders(card, recipe()).train("labelled", ORDER)))
    assert equal(list(batches), list(batches)), "and it can be read twice"


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_all_processes_together_are_the_batch(card, world):
    whole = list(CardLoaders(card, recipe()).train("labelled", ORDER, 1))
    shares = [list(CardLoaders(card, recipe(), rank, world).train("labelled", ORDER, 1)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert len(batch["ids"]) == 4
        for rank in range(world):
            share = shares[rank][step]
            assert share["ids"] == batch["ids"][rank::world]
            for key in ("rgb", "thermal", "present", "index", "seed"):
                assert torch.equal(share[key], batch[key][rank::world]), key
            assert all(map(torch.equal, share["boxes"], batch["boxes"][rank::world]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_validation_is_shared_out_by_batches(card, world):
    """Six pictures in batches of four: of four processes two get nothing."""
    loaders = [CardLoaders(card, recipe(), rank, world) for rank in range(world)]
    shares = [list(one.validation()) for one in loaders]
    assert [len(one.validation()) for one in loaders] == [len(share) for share in shares]
    assert [len(share) for share in shares] == {1: [2], 2: [1, 1], 4: [1, 1, 0, 0]}[world]
    together = [batch for step in range(2) for share in shares for batch in share[step : step + 1]]
    assert torch.cat([batch["index"] for batch in together]).tolist() == list(range(6))
    assert ids(together) == [sample.id for sample in card.samples("val")]
    assert len(torch.cat([batch["seed"] for batch in together]).unique()) == 6, "or all masks would be one"
    assert equal(together, list(CardLoaders(card, recipe(workers=2)).validation()))
    assert together[0]["thermal"].shape == (4, 48, 80), "as delivered, not augmented"


def test_each_pass_has_an_order_and_an_augmentation_of_its_own(card):
    batches = list(CardLoaders(card, recipe(repeat=2)).train("labelled", ORDER))
    first, second = ids(batches[:3]), ids(batches[3:])
    assert sorted(first) == sorted(second) == [sample.id for sample in card.samples("train")]
    assert first != second
    assert len(torch.cat([batch["seed"] for batch in batches]).unique()) == 24
    assert ids(CardLoaders(card, recipe()).train("labelled", ORDER)) == first, "however many follow"


def test_what_does_not_fill_a_batch_is_left_out_unless_it_is_all(card):
    assert [len(b["ids"]) for b in CardLoaders(card, recipe(batch=5)).train("labelled", ORDER)] == [5, 5]
    few = subset(card, 0.25)
    alone = CardLoaders(few, recipe(batch=16))
    assert [len(b["ids"]) for b in alone.train("labelled", ORDER)] == [3] and len(alone.train("labelled", ORDER)) == 1
    shares = [ids(CardLoaders(few, recipe(batch=16), rank, 2).train("labelled", ORDER)) for rank in range(2)]
    whole = ids(alone.train("labelled", ORDER))
    assert shares == [whole[:1], whole[1:2]], "as many in each, or one would wait for the other's parts for ever"
    assert len(ids(CardLoaders(few, recipe(repeat=6)).train("labelled", ORDER))) == 16


def with_archive(card, *sensors):
    """The unlabelled pairs lose a sensor."""
    archive = Split(file="unlabelled.txt", sensors=sensors)
    return card.model_copy(update={"splits": card.splits | {"unlabelled": archive}})


def test_kinds_of_pictures(card):
    both = CardLoaders(card, recipe("task", "autoencode", "distill"))
    assert both.sizes == {"labelled": 12, "thermal": 18, "pairs": 18}
    thermal = CardLoaders(with_archive(card, "thermal"), recipe("task", "autoencode", "distill"))
    assert thermal.sizes == {"labelled": 12, "thermal": 18, "pairs": 12}
    rgb = CardLoaders(with_archive(card, "rgb"), recipe("task", "autoencode", "distill"))
    assert rgb.sizes == {"labelled": 12, "thermal": 12, "pairs": 12}
    assert {len(both.train(kind, ORDER)) for kind in ("thermal", "pairs")} == {4}


def test_without_labels_only_what_is_needed_is_read(card):
    loaders = CardLoaders(card, recipe("task", "autoencode", "distill"))
    for kind, present in (("labelled", [1, 1]), ("thermal", [0, 1]), ("pairs", [1, 1])):
        batch = next(iter(loaders.train(kind, ORDER)))
        assert batch["present"].tolist() == [present] * 4
        assert bool(batch["rgb"].any()) == bool(present[0]) and batch["thermal"].any()
        known = {"boxes", "labels"} if kind == "labelled" else set()
        assert batch.keys() == {"rgb", "thermal", "present", "ids", "index", "seed"} | known
        assert not known or any(map(len, batch["boxes"]))
    alone = next(iter(CardLoaders(card, recipe(sensors=["rgb"])).train("labelled", ORDER)))
    assert alone["present"].tolist() == [[1, 0]] * 4


def test_thermal_is_the_same_whether_or_not_rgb_is_read(card):
    loaders = CardLoaders(card, recipe("autoencode", "distill"))
    for thermal, pairs in zip(loaders.train("thermal", ORDER), loaders.train("pairs", ORDER), strict=True):
        assert thermal["ids"] == pairs["ids"] and torch.equal(thermal["thermal"], pairs["thermal"])


def test_an_archive_of_thermal_alone_is_learnt_from(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    for path in (tmp_path / "set" / "rgb").glob("unlabelled*"):
        path.unlink()
    card = with_archive(DatasetCard.load(tmp_path / "set" / "card.yaml"), "thermal")
    loaders = CardLoaders(card, recipe("autoencode", "task"))
    seen = ids(loaders.train("thermal", ORDER))
    assert len(seen) == 16 and any(one.startswith("unlabelled") for one in seen)


def test_pictures_without_labels_are_enough_where_no_stage_learns_from_labels(card):
    splits = {"unlabelled": Split(file="unlabelled.txt"), "val": Split(ids=tuple(s.id for s in card.samples("test")))}
    bare = card.model_copy(update={"splits": splits, "labels": None})
    loaders = CardLoaders(bare, recipe("autoencode"))
    assert loaders.sizes == {"labelled": 0, "thermal": 6, "pairs": 6}
    assert len(list(loaders.validation())) == 2
    with pytest.raises(DataError, match=r"card\.yaml: labels: the card has none, and a model for the task 'detect'"):
        CardLoaders(bare, recipe("autoencode", "task"))
    with pytest.raises(DataError, match="no split 'train'"):
        CardLoaders(card.model_copy(update={"splits": splits}), recipe("autoencode", "task"))


def test_a_stage_with_nothing_to_learn_from_is_one_line(card):
    splits = {"unlabelled": Split(file="unlabelled.txt", sensors=("thermal",)), "val": card.splits["val"]}
    bare = card.model_copy(update={"splits": splits})
    with pytest.raises(DataError, match=r"card\.yaml: has none of the pairs of both sensors that stage 's1' learns "
                                        r"from \(stages\.1\.objective: distill\)") as caught:  # fmt: skip
        CardLoaders(bare, recipe("autoencode", "distill"))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"has only 1 for 2 devices of the labelled pairs that stage 's0' learns from"):
        CardLoaders(subset(card, 0.01), recipe(), 0, 2)


def test_a_batch_that_cannot_be_shared_out_is_one_line(card):
    with pytest.raises(DataError, match=r"batch: 4 pairs cannot be shared out evenly to 3 devices; .*--set batch=6"):
        CardLoaders(card, recipe(), 0, 3)
    with pytest.raises(DataError, match=r"batch: 4 pairs .* to 8 devices; .*--set batch=8"):
        CardLoaders(card, recipe(), 0, 8)


def test_a_file_is_missed_only_where_it_is_needed(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "card.yaml")
    card.samples("unlabelled")[2].rgb.unlink()
    CardLoaders(card, recipe("autoencode", "task"))
    with pytest.raises(DataError, match=r"\.jpg: no such file \(1 of split 'unlabelled' are missing\); rgbt data"):
        CardLoaders(card, recipe("distill"))
    card.samples("val")[0].thermal.unlink()
    CardLoaders(card, recipe(sensors=["rgb"]))
    with pytest.raises(DataError, match="1 of split 'val' are missing"):
        CardLoaders(card, recipe())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_told_through_the_workers(card, tmp_path, workers):
    shutil.copytree(card.folder, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "card.yaml")
    picture = card.samples("train")[4].rgb
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(DataError, match=f"{picture.name}: the file is truncated") as caught:
        list(CardLoaders(card, recipe(workers=workers)).train("labelled", ORDER))
    assert str(caught.value) == f"{picture}: the file is truncated or damaged; copy it again", "no worker's traceback"


def test_the_fingerprint_is_of_what_a_run_takes(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    copy = DatasetCard.load(tmp_path / "set" / "card.yaml")
    before = CardLoaders(card, recipe()).fingerprint
    assert CardLoaders(copy, recipe("distill", batch=2, seed=3)).fingerprint == before, "wherever it lies"
    others = [
        subset(card, 0.5),
        with_archive(card, "thermal"),
        card.model_copy(update={"classes": (*card.classes, "x")}),
    ]
    found = [CardLoaders(other.at(card.path), recipe()).fingerprint for other in others]
    write_image(copy.samples("unlabelled")[0].thermal, np.full((48, 80), 9, np.uint16))
    found.append(CardLoaders(copy, recipe()).fingerprint)
    assert len({before, *found}) == 5


@pytest.mark.parametrize(("task", "keys"), [("segment", {"mask"}), ("classify", {"label"})])
def test_only_the_labels_of_the_recipe_s_task_are_read(card, task, keys):
    bare = card.model_copy(update={"labels": None, "splits": by_ids(card)}).at(card.path)
    loaders = CardLoaders(bare, recipe("task", "autoencode", task=task))
    shared = {"rgb", "thermal", "present", "ids", "index", "seed"}
    assert next(iter(loaders.train("labelled", ORDER))).keys() == shared | keys
    assert next(iter(loaders.validation())).keys() == shared | keys
    assert next(iter(loaders.train("thermal", ORDER))).keys() == shared


def by_ids(card):
    """The card's splits without a need for boxes."""
    return {name: Split(ids=tuple(sample.id for sample in card.samples(name))) for name in card.splits}


@pytest.mark.parametrize(("task", "field"), [("detect", "labels"), ("segment", "masks"), ("classify", "image_labels")])
def test_a_task_that_the_card_has_no_labels_for_is_one_line(card, task, field):
    bare = card.model_copy(update={field: None, "splits": by_ids(card)}).at(card.path)
    with pytest.raises(DataError, match=rf"card\.yaml: {field}: the card has none, .* '{task}' \(model\.head\.kind\)"):
        CardLoaders(bare, recipe(task=task))
    CardLoaders(bare, recipe("autoencode", task=task))


def test_pairs_without_the_task_s_labels_are_told(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    card = DatasetCard.load(tmp_path / "set" / "card.yaml")
    card.samples("train")[3].mask.unlink()
    CardLoaders(card, recipe())
    with pytest.raises(DataError, match=r"\.png: no such file \(1 of split 'train' are missing\)"):
        CardLoaders(card, recipe(task="segment"))
    (tmp_path / "set" / "few.csv").write_text(f"id,label\n{card.samples('train')[0].id},{card.image_classes[0]}\n")
    few = card.model_copy(update={"image_labels": ImageLabels(format="csv", path="few.csv")}).at(card.path)
    with pytest.raises(DataError, match="11 pairs of split 'train' have no labels for the task 'classify'"):
        CardLoaders(few, recipe(task="classify"))


def test_the_fingerprint_is_of_the_task_s_labels_alone(card, tmp_path):
    shutil.copytree(card.folder, tmp_path / "set")
    copy = DatasetCard.load(tmp_path / "set" / "card.yaml")
    before = {task: CardLoaders(card, recipe(task=task)).fingerprint for task in ("detect", "segment", "classify")}
    assert len(set(before.values())) == 3
    sample = copy.samples("train")[0]
    mask = read_mask(sample, copy)
    mask[0, 0] = 2 if mask[0, 0] == 1 else 1
    write_image(sample.mask, mask)
    renamed = copy.model_copy(update={"image_classes": copy.image_classes[::-1]}).at(copy.path)
    assert CardLoaders(copy, recipe()).fingerprint == before["detect"]
    assert CardLoaders(copy, recipe(task="segment")).fingerprint != before["segment"]
    assert CardLoaders(copy, recipe(task="classify")).fingerprint == before["classify"]
    assert CardLoaders(renamed, recipe(task="classify")).fingerprint != before["classify"]
    assert CardLoaders(renamed, recipe()).fingerprint == before["detect"]


def test_fabric_takes_them(card):
    """As the trainer hands them on, with batches moved to the device."""
    fabric = Fabric(accelerator="cpu", devices=1)
    loaders = CardLoaders(card, recipe())
    batches = fabric.setup_dataloaders(loaders.train("labelled", ORDER), use_distributed_sampler=False)
    assert len(batches) == 3 and equal(list(batches), list(loaders.train("labelled", ORDER)))
    assert len(list(fabric.setup_dataloaders(loaders.validation(), use_distributed_sampler=False))) == 2


def _arrays(changed):
    return changed.rgb, changed.thermal, changed.boxes, changed.labels


def test_an_absent_sensor_costs_nothing_and_moves_the_boxes_all_the_same(card):
    augmenter = Augmenter(recipe().augment, card.thermal_spec)
    rgb, thermal = np.full((64, 96, 3), 70, np.uint8), np.full((48, 80), 21000, np.uint16)
    boxes, labels = np.array([[10, 10, 40, 50]], np.float32), np.array([1])
    both = _arrays(augmenter(rgb, thermal, 5, (True, True), boxes, labels))
    for present in ((True, False), (False, True)):
        alone = _arrays(augmenter(rgb, thermal, 5, present, boxes, labels))
        for there, one, other in zip((*present, True, True), both, alone, strict=True):
            assert np.array_equal(other, one if there else np.zeros_like(one)) and one.dtype == other.dtype
