import json

import numpy as np
import pytest

from data.card import DatasetCard, Split
from data.coco import read_coco
from data.errors import DataError
from data.rig import Rig
from data.subset import holdout, subset

CARD = """version: 1
name: test
rgb: visible/{id}.jpg
thermal: infrared/{id}.png
rgb_size: [40, 60]
thermal_size: [20, 30]
classes: [person, car]
labels: {format: coco, path: boxes.json}
thermal_spec: {unit: counts16}
splits:
  train: {coco: train}
  val: {file: val.txt}
  few: {ids: [a/1]}
"""


def coco(*annotations, size=(40, 60)):
    """Two images of train, one of val; annotations are (image id, category id, box)."""
    names = ["visible/a/1.jpg", "a/2.jpg", "b/3.jpg"]
    return {
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "person"}],
        "images": [
            {"id": k, "file_name": name, "height": size[0], "width": size[1], "split": "train" if k < 3 else "val"}
            for k, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": 100 + k, "image_id": image, "category_id": category, "bbox": box}
            for k, (image, category, box) in enumerate(annotations)
        ],
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "card.yaml").write_text(CARD, encoding="utf-8")
    (tmp_path / "val.txt").write_text("b/3\nunseen\n", encoding="utf-8")
    content = coco((1, 3, [1, 2, 10, 20]), (1, 7, [0, 0, 60, 40]), (3, 7, [-0.6, 5, 10, 35.9]))
    (tmp_path / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def edited(folder, old, new):
    text = (folder / "card.yaml").read_text(encoding="utf-8")
    assert old in text
    (folder / "card.yaml").write_text(text.replace(old, new), encoding="utf-8")
    return DatasetCard.load(folder / "card.yaml")


def test_samples_know_files_boxes_and_labels(folder):
    card = DatasetCard.load(folder / "card.yaml")
    first, second = card.samples("train")
    assert (first.id, second.id) == ("a/1", "a/2")
    assert first.rgb == folder / "visible/a/1.jpg" and first.thermal == folder / "infrared/a/1.png"
    assert first.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 60, 40]] and first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1] and first.labels.dtype == np.int64
    assert second.boxes.shape == (0, 4) and second.labels.shape == (0,)
    labelled, unlabelled = card.samples("val")
    np.testing.assert_allclose(labelled.boxes, [[0, 5, 9.4, 40]])
    assert unlabelled.id == "unseen" and unlabelled.boxes is None and unlabelled.labels is None
    assert [sample.id for sample in card.samples("few")] == ["a/1"]


def test_scenes_and_masks(folder):
    (folder / "scenes.json").write_text('{"a/1": "night"}', encoding="utf-8")
    card = edited(folder, "splits:", "scenes: scenes.json\nmasks: masks/{id}.png\nsplits:")
    first, second = card.samples("train")
    assert first.scene == "night" and second.scene is None
    assert first.mask == folder / "masks/a/1.png"


def test_what_is_called_unlabelled_has_no_labels_and_may_lack_a_sensor(folder):
    card = edited(folder, "few: {ids: [a/1]}", "unlabelled-night: {ids: [a/1], sensors: [thermal]}")
    (sample,) = card.samples("unlabelled-night")
    assert sample.boxes is None and sample.labels is None and sample.sensors == ("thermal",)
    assert card.unlabelled == ("unlabelled-night",)
    assert card.samples("train")[0].boxes is not None and card.samples("train")[0].sensors == ("rgb", "thermal")
    card.save(folder / "copy.yaml")
    assert DatasetCard.load(folder / "copy.yaml") == card
    assert (folder / "copy.yaml").read_text(encoding="utf-8").count("sensors") == 1


def ids(card, split):
    return [sample.id for sample in card.samples(split)]


@pytest.mark.parametrize(
    ("labels", "kept"),
    [(0.25, [2, 6, 10]), (0.5, [1, 3, 5, 7, 9, 11]), (0.01, [6]), (2 / 3, [0, 2, 3, 5, 6, 8, 9, 11])],
)
def test_a_subset_keeps_labels_evenly_and_loses_no_picture(synthetic_card, labels, kept):
    card = DatasetCard.load(synthetic_card)
    train, unlabelled = ids(card, "train"), ids(card, "unlabelled")
    few = subset(card, labels)
    assert ids(few, "train") == [train[k] for k in sorted(kept)]
    moved = [one for one in train if one not in ids(few, "train")]
    assert ids(few, "unlabelled") == unlabelled + moved
    assert all(sample.boxes is None and sample.rgb.is_file() for sample in few.samples("unlabelled"))
    assert all(sample.boxes is not None for sample in few.samples("train"))
    assert ids(few, "val") == ids(card, "val") and few.path == card.path
    assert ids(card, "train") == train, "the card itself is as it was"


def test_a_subset_of_all_is_the_card_and_shares_are_checked(synthetic_card):
    card = DatasetCard.load(synthetic_card)
    assert subset(card, 1) == card
    for share in (0, 1.5, float("nan")):
        with pytest.raises(DataError, match=r"expected one above 0, at most 1"):
            subset(card, share)
        with pytest.raises(DataError, match=r"cannot be held out; expected a share between 0 and 1"):
            holdout(card, share)


def test_moved_pairs_keep_apart_from_a_split_of_thermal_alone(synthetic_card):
    card = DatasetCard.load(synthetic_card)
    thermal = Split(file="unlabelled.txt", sensors=("thermal",))
    card = card.model_copy(update={"splits": card.splits | {"unlabelled": thermal}})
    few = subset(subset(card, 0.5), 0.5)
    assert few.unlabelled == ("unlabelled", "unlabelled-pairs")
    assert sorted(ids(few, "train") + ids(few, "unlabelled-pairs")) == ids(card, "train")
    assert len(ids(few, "train")) == 3
    bare = {name: split for name, split in card.splits.items() if name != "unlabelled"}
    assert len(ids(subset(card.model_copy(update={"splits": bare}), 0.5), "unlabelled")) == 6


@pytest.mark.parametrize(("share", "count"), [(0.25, 3), (0.01, 1), (0.999, 11)])
def test_the_end_of_train_is_held_out(synthetic_card, share, count):
    card = DatasetCard.load(synthetic_card)
    train = ids(card, "train")
    cut = holdout(card, share)
    assert ids(cut, "train") == train[:-count] and ids(cut, "val") == train[-count:]
    assert all(sample.boxes is not None for sample in cut.samples("val"))
    assert ids(cut, "test") == ids(card, "test")


def test_round_trip(folder):
    card = DatasetCard.load(folder / "card.yaml")
    card.save(folder / "copy.yaml")
    assert DatasetCard.load(folder / "copy.yaml") == card


def test_inputs_follow_the_rig_and_the_canvas(folder):
    card = DatasetCard.load(folder / "card.yaml")
    assert card.inputs().rgb_size == (40, 60) and card.inputs().thermal_size == (20, 30)
    assert card.load_rig() == Rig()
    Rig(rotate=90).save(folder / "rig.yaml")
    turned = edited(folder, "splits:", "rig: rig.yaml\nsplits:")
    assert turned.inputs().thermal_size == (30, 20) and not turned.inputs().letterbox
    free = edited(folder, "thermal_size: [20, 30]", "canvas: [64, 96]")
    assert free.inputs().letterbox and free.inputs().thermal_size == (64, 96)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("rgb: visible/{id}.jpg", "rgb: visible/x.jpg", r"card\.yaml:3: rgb: a path pattern holds \{id\}"),
        ("thermal_size: [20, 30]", "masks: null", "frames of varying size need a canvas"),
        ("classes: [person, car]", "classes: [car, car]", "a class is listed twice"),
        ("labels: {format", "labels: {fromat", r"card\.yaml:8: unknown key 'labels.fromat'; did you mean 'format'"),
        ("train: {coco: train}", "train: {ids: [b, a, c, a]}", "the id 'a' is listed twice"),
        ("train: {coco: train}", "train: {coco: train, ids: []}", "exactly one of file, ids, coco"),
        ("unit: counts16", "unit: kelvin", r"card\.yaml:9: thermal_spec.unit"),
        ("[a/1]}", "[a/1], sensors: [thermal]}", r"splits\.few\.sensors: .* begins with 'unlabelled' may lack one"),
        ("[a/1]}", "[a/1], sensors: [thermel]}", r"card\.yaml:13: splits\.few\.sensors"),
        ("version: 1", "version: 2", r"card\.yaml:1: version"),
        (
            "{unit: counts16}",
            "{unit: counts16, stored: planck, planck: {r1: 14906.2, r2: 0.011, b: 1396.5, f: 1, o: -7261}}",
            r"card\.yaml:9: thermal_spec: stored: planck becomes degrees, so unit must be celsius",
        ),
    ],
)
def test_a_wrong_card_is_one_line(folder, old, new, text):
    with pytest.raises(DataError, match=text) as caught:
        edited(folder, old, new)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "split", "text"),
    [
        ("version", "version", "test", "no split 'test'; there is train, val, few"),
        ("coco: train", "coco: tarin", "train", "split 'train' is empty .*split: tarin"),
        ("file: val.txt", "file: none.txt", "val", r"none\.txt: no such file \(the list of ids\)"),
        ("classes: [person, car]", "classes: [person]", "few", "class 'car' is not among the card's classes"),
    ],
)
def test_a_wrong_split_is_one_line(folder, old, new, split, text):
    with pytest.raises(DataError, match=text) as caught:
        edited(folder, old, new).samples(split)
    assert "\n" not in str(caught.value)


def test_an_empty_or_doubled_list_of_ids(folder):
    card = DatasetCard.load(folder / "card.yaml")
    (folder / "val.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"split 'val' is empty \(val\.txt lists no id"):
        card.samples("val")
    (folder / "val.txt").write_text("b/3\nb/3\n", encoding="utf-8")
    with pytest.raises(DataError, match="'b/3' is listed twice"):
        card.samples("val")


def write(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ([65, 5, 7, 5], r": box \[65, 5, 7, 5\] .* of image visible/a/1\.jpg lies outside its image of 60×40"),
        ([-9, 5, 7, 5], "lies outside its image"),
        ([5, 5, -3, 5], "has a width or height below 0"),
        ([60.5, 5, 0.4, 5], "lies outside its image"),
        ([float("nan"), 5, 1, 5], "is not made of numbers"),
        ([5, 5, 5], "expected"),
        ("5", "expected"),
    ],
)
def test_wrong_boxes_name_annotation_and_file(tmp_path, box, text):
    path = write(tmp_path, coco((1, 3, box)))
    with pytest.raises(DataError, match=rf"boxes\.json: annotation 100.*{text}"):
        read_coco(path, ["person", "car"])


def test_boxes_that_leave_their_picture_are_clipped(tmp_path):
    images, classes = read_coco(write(tmp_path, coco((1, 3, [-1, -1, 62, 42]), (1, 3, [50, 5, 20, 5]))), None)
    assert images[0].boxes.tolist() == [[0, 0, 60, 40], [50, 5, 60, 10]]
    assert len(images[0].clipped) == 1 and "box [50, 5, 20, 5]" in images[0].clipped[0], "one pixel is rounding"
    assert classes == ["person", "car"], "in the order of category ids"


def test_crowds_are_ignored_and_sizes_may_come_from_the_card(tmp_path):
    content = coco((1, 3, [1, 1, 5, 5]), (1, 3, [2, 2, 5, 5]))
    content["annotations"][0]["iscrowd"] = 1
    del content["images"][0]["width"]
    path = write(tmp_path, content)
    with pytest.raises(DataError, match="states no width and height"):
        read_coco(path, None)
    images, _ = read_coco(path, None, size=(40, 60))
    assert images[0].boxes.tolist() == [[1, 1, 6, 6], [2, 2, 7, 7]] and images[0].labels.tolist() == [~0, 0]


def test_unknown_references_are_named(tmp_path):
    with pytest.raises(DataError, match="annotation 100: category_id 9 is not among the file's categories"):
        read_coco(write(tmp_path, coco((1, 9, [1, 1, 5, 5]))), None)
    with pytest.raises(DataError, match="annotation 100: image_id 8 is not among the images"):
        read_coco(write(tmp_path, coco((8, 3, [1, 1, 5, 5]))), None)


def test_what_is_no_coco_file_is_one_line(tmp_path):
    path = tmp_path / "boxes.json"
    for text, expected in (
        ("{\n", r"boxes\.json:2: not valid JSON"),
        ("[]", "not a COCO file"),
        ('{"images": [], "annotations": {}}', "'annotations' is not a list of objects"),
        ('{"images": [{"id": 1}], "annotations": []}', "image 1: 'file_name' is missing"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=expected):
            read_coco(path, None)
