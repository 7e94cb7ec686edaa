import json
import re
import shutil

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.check.run import check_card
from data.images import write_image
from data.sample import tell_empty


@pytest.fixture
def folder(synthetic_card, tmp_path):
    """A data set of its own, to be broken."""
    shutil.copytree(synthetic_card.parent, tmp_path / "set")
    return tmp_path / "set"


def report_of(folder):
    return check_card(DatasetCard.load(folder / "card.yaml"))


def test_a_good_data_set_is_counted(folder):
    done = []
    report = check_card(DatasetCard.load(folder / "card.yaml"), lambda n, total: done.append((n, total)))
    assert report.errors == []
    assert done[-1] == (30, 30) and len(done) == 30
    labels = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))["annotations"]
    assert sum(sum(split["boxes"].values()) for split in report.splits.values()) == len(labels)
    assert report.splits["unlabelled"]["labelled"] == 0
    assert 15000 < report.thermal_range[0] < report.thermal_range[1] < 35000
    assert report.thermal_span[0] <= report.thermal_span[1] < report.thermal_range[1] - report.thermal_range[0]
    assert report.box_sides[0] <= report.box_sides[1] <= report.box_sides[2]
    json.dumps(report.as_json())


def missing_thermal(folder):
    (folder / "thermal/train_00001.png").unlink()


def truncated_thermal(folder):
    path = folder / "thermal/train_00001.png"
    path.write_bytes(path.read_bytes()[:-300])


def truncated_rgb(folder):
    path = folder / "rgb/train_00001.jpg"
    path.write_bytes(path.read_bytes()[:700])


def small_thermal(folder):
    write_image(folder / "thermal/train_00001.png", np.full((40, 80), 20000, np.uint16))


def eight_bits(folder):
    write_image(folder / "thermal/train_00001.png", np.arange(48 * 80).reshape(48, 80).astype(np.uint8))


def box_outside(folder):
    change(folder, lambda coco: coco["annotations"][0].update(bbox=[990, 10, 20, 20]))


def unknown_class(folder):
    change(folder, lambda coco: coco["categories"][0].update(name="persom"))


def empty_split(folder):
    (folder / "unlabelled.txt").write_text("\n", encoding="utf-8")


def in_two_splits(folder):
    with (folder / "unlabelled.txt").open("a", encoding="utf-8") as file:
        file.write("val_00002\n")


def copy_across_splits(folder):
    shutil.copy(folder / "rgb/train_00001.jpg", folder / "rgb/test_00003.jpg")


def labels_of_another_size(folder):
    def grow(coco):
        for image in coco["images"]:
            image.update(width=192, height=128)
        coco["annotations"][0]["bbox"] = [100, 100, 50, 20]

    change(folder, grow)


def labels_of_larger_pictures(folder):
    """No box leaves its picture, and yet all lie wrong."""
    change(folder, lambda coco: [image.update(width=192, height=128) for image in coco["images"]])


def wrong_mask(folder):
    cv2.imwrite(str(folder / "masks/train_00001.png"), np.full((64, 96), 9, np.uint8))


def half_labelled(folder):
    text = (folder / "card.yaml").read_text(encoding="utf-8")
    (folder / "few.txt").write_text("train_00001\nunlabelled_00001\n", encoding="utf-8")
    (folder / "unlabelled.txt").write_text("unlabelled_00002\n", encoding="utf-8")
    (folder / "card.yaml").write_text(text.replace("{coco: train}", "{file: few.txt}"), encoding="utf-8")


def rgb_lacking_where_it_must_not(folder):
    text = (folder / "card.yaml").read_text(encoding="utf-8")
    (folder / "card.yaml").write_text(
        text.replace("unlabelled.txt", "unlabelled.txt, sensors: [rgb]"), encoding="utf-8"
    )
    (folder / "rgb/unlabelled_00001.jpg").unlink()


def change(folder, how):
    content = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    how(content)
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (missing_thermal, "thermal/train_00001.png: missing thermal file of pair 'train_00001'"),
        (truncated_thermal, "thermal/train_00001.png: the file is truncated or damaged"),
        (truncated_rgb, "rgb/train_00001.jpg: the file is truncated or damaged"),
        (small_thermal, "train_00001.png: 80×40 (width×height), but the card says thermal_size: [48, 80]"),
        (eight_bits, "train_00001.png: thermal is uint8, but unit 'counts16' means one channel of uint16"),
        (box_outside, "boxes.json: annotation 1: box [990, 10, 20, 20] (x, y, width, height) of image"),
        (unknown_class, "class 'persom' is not among the card's classes"),
        (empty_split, "split 'unlabelled' is empty (unlabelled.txt lists no id)"),
        (in_two_splits, "pair 'val_00002' is in the splits 'val' and 'unlabelled'"),
        (copy_across_splits, "pairs 'train_00001' (train) and 'test_00003' (test) have the same RGB file"),
        (labels_of_another_size, "the labels were made on pictures of another size"),
        (labels_of_larger_pictures, ".jpg is 96×64, width×height, labels say 192×128"),
        (wrong_mask, "masks/train_00001.png: class index 9 at x 0, y 0; the card has 4 classes"),
        (rgb_lacking_where_it_must_not, "rgb/unlabelled_00001.jpg: missing RGB file of pair 'unlabelled_00001'"),
        (half_labelled, "(first: 'unlabelled_00001'); move them to the split 'unlabelled'"),
    ],
)
def test_one_harm_is_one_error(folder, harm, text):
    harm(folder)
    errors = report_of(folder).errors
    assert len(errors) == 1 and text in errors[0] and "\n" not in errors[0]


def test_labels_that_lie_elsewhere_are_no_empty_pictures(folder):
    card = (folder / "card.yaml").read_text(encoding="utf-8")
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text(f"{split}_00001\n{split}_00002\n", encoding="utf-8")
        card = card.replace(f"{{coco: {split}}}", f"{{file: {split}.txt}}")
    card = card.replace("format: coco", "format: voc").replace("boxes.json", "'Anotations/{id}.xml'")
    (folder / "card.yaml").write_text(re.sub(r"(?m)^(masks|image_labels):.*\n", "", card), encoding="utf-8")
    report = report_of(folder)
    assert [error.partition(":")[0] for error in report.errors] == ["split 'train'", "split 'val'"]
    assert "none of 2 pairs has labels for detect (first: 'train_00001')" in report.errors[0]
    assert any("split 'test': none of 2 pairs has labels" in warning for warning in report.warnings)


def test_warnings_do_not_stop_training(folder):
    write_image(folder / "thermal/train_00001.png", np.full((48, 80), 20000, np.uint16))
    shutil.copy(folder / "rgb/train_00002.jpg", folder / "rgb/train_00003.jpg")
    change(folder, lambda coco: coco["annotations"][0].update(bbox=[10, 10, 3, 20]))
    report = report_of(folder)
    assert report.errors == []
    for text in (
        "thermal is flat",
        "'train_00002' (train) and 'train_00003' (train) have the same RGB",
        "side below 4",
    ):
        assert any(text in warning for warning in report.warnings), text


def test_boxes_that_are_clipped_are_a_warning(folder):
    change(folder, lambda coco: coco["annotations"][0].update(bbox=[90, 10, 20, 20]))
    report = report_of(folder)
    line = next(warning for warning in report.warnings if "clipped" in warning)
    assert report.errors == [] and line.startswith("1 boxes leave their pictures and are clipped to them (first: ")
    assert "boxes.json: annotation 1: box [90, 10, 20, 20] (x, y, width, height) of image" in line


def test_boxes_without_area_are_named_and_left_out(folder):
    before = sum(report_of(folder).splits["train"]["boxes"].values())
    change(folder, lambda coco: [one.update(bbox=[9, 10, 0, 20]) for one in coco["annotations"][:2]])
    report = report_of(folder)
    lines = [warning for warning in report.warnings if "has no area and is left out" in warning]
    assert report.errors == [] and len(lines) == 2 and "boxes.json: annotation 1: box [9, 10, 0, 20]" in lines[0]
    assert sum(report.splits["train"]["boxes"].values()) == before - 2
    said = tell_empty(DatasetCard.load(folder / "card.yaml").samples("train"))
    assert said.startswith("warning: 2 boxes have no width or no height and are left out (first: ")
    assert "boxes.json: annotation 1)" in said and "\n" not in said


def test_a_split_of_thermal_alone_needs_no_rgb(folder):
    text = (folder / "card.yaml").read_text(encoding="utf-8")
    (folder / "card.yaml").write_text(
        text.replace("unlabelled.txt", "unlabelled.txt, sensors: [thermal]"), encoding="utf-8"
    )
    for path in (*folder.glob("rgb/unlabelled*"), *folder.glob("masks/unlabelled*")):
        path.unlink()
    report = report_of(folder)
    assert report.errors == [] and report.splits["unlabelled"]["pairs"] == 6
    small = folder / "thermal/unlabelled_00003.png"
    write_image(small, np.full((40, 80), 20000, np.uint16))
    assert len(report_of(folder).errors) == 1, "its thermal is looked at as any other's"
