import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.augment.augmenter import Augmenter
from data.augment.pair import augment_pair
from data.augment.spec import AugmentSpec
from data.card import DatasetCard
from data.dataset import PairDataset, stack, unpack
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
    pairs = PairDataset(card, card.samples("train"))
    sample = card.samples("train")[5]
    item = pairs[5, 0]
    assert np.array_equal(item["rgb"], read_rgb(sample.rgb))
    assert np.array_equal(item["thermal"], read_thermal(sample.thermal, card.thermal_spec))
    assert np.array_equal(item["boxes"], sample.boxes) and np.array_equal(item["labels"], sample.labels)
    assert item["present"].tolist() == [1, 1] and item["id"] == sample.id
    assert (item["index"], item["seed"]) == (5, 0)


def test_an_augmented_item_is_a_function_of_its_seed(card):
    pairs, again = (PairDataset(card, card.samples("train"), AugmentSpec()) for _ in range(2))
    again[0, 1]
    assert same(pairs[3, 11], again[3, 11])
    assert not same(pairs[3, 11], pairs[3, 12])
    assert pairs[3, 11]["thermal"].shape == card.rgb_size and pairs[3, 11]["thermal"].dtype == np.uint16


def test_a_pair_and_its_truth_change_as_one(card):
    sample = card.samples("train")[3]
    prepared, truth = load_pair(sample, Preparer(card.inputs(), card.load_rig()))
    whole = truth | {"label": np.array(2)}
    pair, changed = augment_pair(Augmenter(AugmentSpec(), card.thermal_spec), prepared, whole, 11)
    item = PairDataset(card, card.samples("train"), AugmentSpec())[3, 11]
    assert all(np.array_equal(getattr(pair, name), item[name]) for name in ("rgb", "thermal", "present"))
    assert np.array_equal(changed["boxes"], item["boxes"]) and not np.array_equal(truth["boxes"], item["boxes"])
    assert changed["label"] == 2 and pair.present.dtype == np.float32 and pair.scale == prepared.scale


def test_workers_do_not_change_the_answer(card):
    pairs = PairDataset(card, card.samples("train") + card.samples("unlabelled"), AugmentSpec())
    keys = [[(k, 100 + k) for k in range(start, start + 4)] for start in (0, 4, 12)]
    alone, two = (
        list(map(unpack, DataLoader(pairs, batch_sampler=keys, collate_fn=stack, num_workers=n))) for n in (0, 2)
    )
    for a, b in zip(alone, two, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["rgb"], b["rgb"]) and torch.equal(a["thermal"], b["thermal"])
        assert all(torch.equal(x, y) for x, y in zip(a["boxes"], b["boxes"], strict=True))


@pytest.mark.parametrize(("sensors", "present"), [(("rgb",), [1, 0]), (("thermal",), [0, 1])])
@pytest.mark.parametrize("augment", [None, AugmentSpec()])
def test_one_sensor_alone(card, sensors, present, augment):
    item = PairDataset(card, card.samples("train"), augment, sensors)[0, 4]
    assert item["present"].tolist() == present
    absent, both = "thermal" if sensors == ("rgb",) else "rgb", PairDataset(card, card.samples("train"), augment)[0, 4]
    assert not item[absent].any()
    assert item[absent].shape == both[absent].shape and item[absent].dtype == both[absent].dtype
    assert np.array_equal(item[sensors[0]], both[sensors[0]]) and np.array_equal(item["boxes"], both["boxes"])


def test_a_batch_has_the_promised_types(card):
    pairs = PairDataset(card, card.samples("train"), AugmentSpec())
    batch = unpack(stack([pairs[k, k + 2**30] for k in range(3)]))
    assert batch["rgb"].dtype == torch.uint8 and batch["rgb"].shape == (3, 64, 96, 3)
    assert batch["thermal"].dtype == torch.float32 and batch["thermal"].shape == (3, 64, 96)
    assert batch["present"].dtype == torch.float32 and batch["present"].shape == (3, 2)
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
    card = canvas_card(tmp_path)
    pairs = PairDataset(card, card.samples("all"))
    batch = unpack(stack([pairs[0, 0], pairs[1, 0]]))
    assert batch["rgb"].shape == (2, 64, 64, 3) and batch["thermal"].shape == (2, 64, 64)
    assert (batch["rgb"][0, :32, :, 0] == 90).all() and (batch["rgb"][0, 32:, :, 0] == 114).all()
    assert (batch["thermal"][1, :, :32] == 900).all() and (batch["thermal"][1, :, 32:] == 0).all()


@pytest.mark.parametrize("sensors", [("rgb", "thermal"), ("rgb",), ("thermal",)])
def test_boxes_are_scaled_with_the_canvas_whatever_is_read(tmp_path, sensors):
    card = canvas_card(tmp_path)
    sample = card.samples("all")[0]
    boxes = np.array([[10, 20, 80, 40]], np.float32)
    labelled = type(sample)(sample.id, sample.rgb, sample.thermal, boxes, np.array([0]))
    _, truth = load_pair(labelled, Preparer(card.inputs(), card.load_rig()), sensors)
    np.testing.assert_allclose(truth["boxes"], [[8, 16, 64, 32]])


def test_a_sensor_that_a_sample_lacks_is_not_read(card, tmp_path):
    sample = dataclasses.replace(card.samples("train")[0], rgb=tmp_path / "none.jpg", sensors=("thermal",))
    item = PairDataset(card, [sample], AugmentSpec())[0, 1]
    assert item["present"].tolist() == [0, 1] and not item["rgb"].any() and item["thermal"].any()
    prepared, _ = load_pair(sample, Preparer(canvas_card(tmp_path).inputs(), card.load_rig()))
    assert prepared.present.tolist() == [0, 1], "nor is its size asked for"
    with pytest.raises(DataError, match=f"pair '{sample.id}' has only thermal, not rgb"):
        load_pair(sample, Preparer(card.inputs(), card.load_rig()), ("rgb",))


def test_only_pictures_travel_as_tensors(card):
    pairs = PairDataset(card, card.samples("train"))
    stacked = stack([pairs[k, 0] for k in range(3)])
    assert {name for name, value in stacked.items() if isinstance(value, torch.Tensor)} == {"rgb", "thermal"}
    assert not any(isinstance(one, torch.Tensor) for name in ("boxes", "labels") for one in stacked[name])
    batch = unpack(stacked)
    assert torch.equal(batch["boxes"][1], torch.from_numpy(pairs[1, 0]["boxes"])) and batch.keys() == stacked.keys()


def test_a_missing_partner_is_one_line(card):
    sample = card.samples("train")[0]
    gone = type(sample)(sample.id, sample.rgb, sample.thermal.with_name("gone.png"), None, None)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        load_pair(gone, Preparer(card.inputs(), card.load_rig()))


COLOURS = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0]], np.uint8)


def painted_card(folder, **sizes):
    """Two pairs whose RGB shows the mask: a class is a colour; 45 × 80 pixels."""
    for name in ("rgb", "thermal", "masks"):
        (folder / name).mkdir()
    mask = np.zeros((45, 80), np.uint8)
    mask[9:27, 16:40], mask[24:40, 50:78] = 1, 2
    for one in ("0", "1"):
        write_image(folder / "rgb" / f"{one}.png", COLOURS[mask])
        write_image(folder / "thermal" / f"{one}.png", mask.astype(np.uint16) * 500 + 900)
        write_image(folder / "masks" / f"{one}.png", mask)
    return DatasetCard(
        version=1, name="painted", rgb="rgb/{id}.png", thermal="thermal/{id}.png", classes=["red", "green"],
        thermal_spec=ThermalSpec(unit="counts16"), splits={"all": {"ids": ["0", "1"]}, "unlabelled": {"ids": ["1"]}},
        masks="masks/{id}.png", **({"rgb_size": (45, 80), "thermal_size": (45, 80)} | sizes),
    ).at(folder / "card.yaml")  # fmt: skip


def agreement(item):
    """Share of the judged pixels whose colour is that of their class, away from edges, where colours mix."""
    solid = (np.abs(item["rgb"][..., None, :].astype(int) - COLOURS).max(-1) <= 2) & (item["mask"] != 255)[..., None]
    assert solid.any(-1).mean() > 0.2
    return (solid.argmax(-1) == item["mask"])[solid.any(-1)].mean()


@pytest.mark.parametrize("sizes", [{}, {"canvas": (64, 96), "rgb_size": None, "thermal_size": None}])
@pytest.mark.parametrize("augment", [None, AugmentSpec(rgb_brightness=0, rgb_contrast=0, flip=0.5)])
def test_a_mask_moves_with_its_picture(tmp_path, sizes, augment):
    card = painted_card(tmp_path, **sizes)
    pairs = PairDataset(card, card.samples("all"), augment, task="segment")
    for seed in range(6):
        item = pairs[seed % 2, seed]
        assert item["mask"].dtype == np.uint8 and item["mask"].shape == item["rgb"].shape[:2]
        assert agreement(item) > 0.995 and set(np.unique(item["mask"])) <= {0, 1, 2, 255}
        assert "boxes" not in item and "label" not in item


def test_what_lies_outside_of_the_picture_is_not_judged(tmp_path):
    card = painted_card(tmp_path, canvas=(64, 96), rgb_size=None, thermal_size=None)
    item = PairDataset(card, card.samples("all"), task="segment")[0, 0]
    assert (item["mask"][:54] != 255).all() and (item["mask"][54:] == 255).all(), "45 × 80 is 54 × 96 there"


@pytest.mark.parametrize("sizes", [{}, {"canvas": (64, 96), "rgb_size": None, "thermal_size": None}])
def test_a_mask_is_the_same_whatever_is_read(tmp_path, sizes):
    card = painted_card(tmp_path, **sizes)
    both, thermal = (
        PairDataset(card, card.samples("all"), None, sensors, "segment")[0, 0]["mask"]
        for sensors in (("rgb", "thermal"), ("thermal",))
    )
    assert np.array_equal(both, thermal)


def test_a_batch_of_masks(tmp_path):
    card = painted_card(tmp_path)
    pairs = PairDataset(card, card.samples("all") + card.samples("unlabelled"), AugmentSpec(), task="segment")
    batch = unpack(stack([pairs[k, k] for k in range(3)]))
    assert batch["mask"].dtype == torch.uint8 and batch["mask"].shape == (3, 45, 80)
    assert (batch["mask"][:2] != 255).any() and (batch["mask"][2] == 255).all(), "nobody labelled the third"
    assert batch.keys() == {"rgb", "thermal", "present", "mask", "ids", "index", "seed"}


def test_a_batch_of_classes(card):
    pairs = PairDataset(card, card.samples("train") + card.samples("unlabelled"), AugmentSpec(), task="classify")
    batch = unpack(stack([pairs[k, k] for k in (0, 1, 12)]))
    assert batch["label"].dtype == torch.int64 and batch["label"].shape == (3,)
    assert batch["label"].tolist() == [*(card.samples("train")[k].image_label for k in (0, 1)), -1]
    assert batch.keys() == {"rgb", "thermal", "present", "label", "ids", "index", "seed"}


def test_a_mask_of_another_size_is_one_line(tmp_path):
    card = painted_card(tmp_path)
    write_image(tmp_path / "masks" / "1.png", np.zeros((45, 79), np.uint8))
    with pytest.raises(DataError, match=r"1\.png: the mask is 79×45 \(width×height\), .* of pair '1' is 80×45"):
        PairDataset(card, card.samples("all"), task="segment")[1, 0]
