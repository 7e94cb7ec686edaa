import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.augment import AugmentSpec
from data.card import DatasetCard
from data.dataset import PairDataset, collate
from data.errors import DataError
from data.images import read_rgb, read_thermal, write_image
from data.pairs import load_pair
from data.prepare import Preparer
from data.thermal import ThermalSpec


@pytest.fixture
def card(synthetic_card):
    return DatasetCard.load(synthetic_card)


def same(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


def test_an_item_is_the_files_and_labels_as_delivered(card):
    pairs = PairDataset(card, "train")
    sample = card.samples("train")[5]
    item = pairs[5, 0]
    assert np.array_equal(item["rgb"], read_rgb(sample.rgb))
    assert np.array_equal(item["thermal"], read_thermal(sample.thermal, card.thermal_spec))
    assert np.array_equal(item["boxes"], sample.boxes) and np.array_equal(item["labels"], sample.labels)
    assert item["present"].tolist() == [1, 1] and item["labelled"] and item["id"] == sample.id
    assert (item["index"], item["seed"], item["scale"]) == (5, 0, 1.0)


def test_an_augmented_item_is_a_function_of_its_seed(card):
    pairs, again = (PairDataset(card, "train", AugmentSpec()) for _ in range(2))
    again[0, 1]
    assert same(pairs[3, 11], again[3, 11])
    assert not same(pairs[3, 11], pairs[3, 12])
    assert pairs[3, 11]["thermal"].shape == card.rgb_size and pairs[3, 11]["thermal"].dtype == np.uint16


def test_workers_do_not_change_the_answer(card):
    pairs = PairDataset(card, ["train", "unlabelled"], AugmentSpec())
    keys = [[(k, 100 + k) for k in range(start, start + 4)] for start in (0, 4, 12)]
    alone, two = (list(DataLoader(pairs, batch_sampler=keys, collate_fn=collate, num_workers=n)) for n in (0, 2))
    for a, b in zip(alone, two, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["rgb"], b["rgb"]) and torch.equal(a["thermal"], b["thermal"])
        assert all(torch.equal(x, y) for x, y in zip(a["boxes"], b["boxes"], strict=True))


def test_unlabelled_pairs_are_told_apart_from_empty_ones(card):
    pairs = PairDataset(card, ["train", "unlabelled"])
    assert len(pairs) == 18
    batch = collate([pairs[0, 0], pairs[17, 0]])
    assert batch["labelled"].tolist() == [True, False]
    assert batch["boxes"][1].shape == (0, 4) and batch["labels"][1].shape == (0,)


@pytest.mark.parametrize(("sensors", "present"), [(("rgb",), [1, 0]), (("thermal",), [0, 1])])
@pytest.mark.parametrize("augment", [None, AugmentSpec()])
def test_one_sensor_alone(card, sensors, present, augment):
    item = PairDataset(card, "train", augment, sensors)[0, 4]
    assert item["present"].tolist() == present
    absent = item["thermal" if sensors == ("rgb",) else "rgb"]
    if augment is None:
        assert not absent.any()
    both = PairDataset(card, "train", augment)[0, 4]
    assert np.array_equal(item[sensors[0]], both[sensors[0]]) and np.array_equal(item["boxes"], both["boxes"])


def test_a_batch_has_the_promised_types(card):
    pairs = PairDataset(card, "train", AugmentSpec())
    batch = collate([pairs[k, k + 2**30] for k in range(3)])
    assert batch["rgb"].dtype == torch.uint8 and batch["rgb"].shape == (3, 64, 96, 3)
    assert batch["thermal"].dtype == torch.float32 and batch["thermal"].shape == (3, 64, 96)
    assert batch["present"].dtype == torch.float32 and batch["scale"].dtype == torch.float32
    assert batch["index"].dtype == batch["seed"].dtype == torch.int64
    assert batch["seed"].tolist() == [k + 2**30 for k in range(3)]
    assert all(boxes.dtype == torch.float32 for boxes in batch["boxes"])
    assert all(labels.dtype == torch.int64 for labels in batch["labels"])


def canvas_card(folder):
    for name in ("rgb", "thermal"):
        (folder / name).mkdir()
    for k, (height, width) in enumerate([(40, 80), (80, 40)]):
        write_image(folder / "rgb" / f"{k}.png", np.full((height, width, 3), 90, np.uint8))
        write_image(folder / "thermal" / f"{k}.png", np.full((height // 2, width // 2), 900, np.uint16))
    return DatasetCard(
        version=1, name="vary", rgb="rgb/{id}.png", thermal="thermal/{id}.png", canvas=(64, 64),
        thermal_spec=ThermalSpec(unit="counts16"), splits={"all": {"ids": ["0", "1"]}},
    ).at(folder / "card.yaml")  # fmt: skip


def test_sizes_that_vary_meet_on_the_canvas(tmp_path):
    pairs = PairDataset(canvas_card(tmp_path), "all")
    batch = collate([pairs[0, 0], pairs[1, 0]])
    assert batch["rgb"].shape == (2, 64, 64, 3) and batch["thermal"].shape == (2, 64, 64)
    np.testing.assert_allclose(batch["scale"], [0.8, 0.8])


@pytest.mark.parametrize("sensors", [("rgb", "thermal"), ("rgb",), ("thermal",)])
def test_boxes_are_scaled_with_the_canvas_whatever_is_read(tmp_path, sensors):
    card = canvas_card(tmp_path)
    sample = card.samples("all")[0]
    boxes = np.array([[10, 20, 80, 40]], np.float32)
    labelled = type(sample)(sample.id, sample.rgb, sample.thermal, boxes, np.array([0]))
    _, scaled = load_pair(labelled, Preparer(card.inputs(), card.load_rig()), sensors)
    np.testing.assert_allclose(scaled, [[8, 16, 64, 32]])


def test_a_missing_partner_is_one_line(card):
    sample = card.samples("train")[0]
    gone = type(sample)(sample.id, sample.rgb, sample.thermal.with_name("gone.png"), None, None)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        load_pair(gone, Preparer(card.inputs(), card.load_rig()))
