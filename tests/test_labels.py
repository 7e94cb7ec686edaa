"""Every format of labels: the same truth comes back, and what is wrong is one line."""

import json
import re
import struct
import zlib
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from data.card import DatasetCard
from data.card_fields import ImageLabels, Labels, Masks
from data.errors import DataError
from data.images import write_image
from data.labels.boxes import ONE_FILE_EACH, read_boxes
from data.labels.image_classes import IMAGE_LABEL_FORMATS
from data.labels.masks import read_mask, read_mask_file
from data.labels.source import BoxSource, Ignore

SIZE = (40, 60)
CLASSES = ("person", "car")
BOXES = [("person", (2, 4, 12, 24)), ("car", (30, 10, 60, 40))]


def coco(path, boxes):
    content = {
        "images": [{"id": 1, "file_name": "a/1.png", "width": SIZE[1], "height": SIZE[0]}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(dict.fromkeys(name for name, _ in boxes), 5)],
    }
    ids = {entry["name"]: entry["id"] for entry in content["categories"]}
    content["annotations"] = [
        {"id": k, "image_id": 1, "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for k, (name, (x1, y1, x2, y2)) in enumerate(boxes)
    ]
    path.write_text(json.dumps(content))


def voc(path, boxes):
    sides = ("xmin", "ymin", "xmax", "ymax")
    things = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for name, box in boxes
    )
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    path.write_text(f'<?xml version="1.0"?>\n<annotation>{size}{things}</annotation>')


def yolo(path, boxes):
    rows = []
    for name, (x1, y1, x2, y2) in boxes:
        index = CLASSES.index(name) if name in CLASSES else 9
        rows.append(
            f"{index} {(x1 + x2) / 2 / SIZE[1]} {(y1 + y2) / 2 / SIZE[0]} {(x2 - x1) / SIZE[1]} {(y2 - y1) / SIZE[0]}"
        )
    path.write_text("\n".join(rows) + "\n")


def kaist(path, boxes):
    rows = [f"{name} {x1} {y1} {x2 - x1} {y2 - y1} 0 0 0 0 0 0 0" for name, (x1, y1, x2, y2) in boxes]
    path.write_text("\n".join(["% bbGt version=3", *rows]) + "\n")


WRITERS = {"coco": coco, "voc": voc, "yolo": yolo, "kaist": kaist}
formats = pytest.mark.parametrize("form", WRITERS)


@pytest.fixture
def source(tmp_path):
    """Makes the source of a format's boxes; the picture a/1 lies there."""
    for folder in ("rgb/a", "labels/a"):
        (tmp_path / folder).mkdir(parents=True)
    write_image(tmp_path / "rgb/a/1.png", np.zeros((*SIZE, 3), np.uint8))

    def build(form, boxes, **changes):
        path = "labels.json" if form == "coco" else "labels/{id}.txt"
        if boxes is not None:
            WRITERS[form](tmp_path / path.replace("{id}", "a/1"), boxes)
        return BoxSource(tmp_path, path, "rgb/{id}.png", CLASSES, **changes)

    return build


def test_every_format_of_a_card_has_a_reader_and_is_tested():
    assert set(WRITERS) == set(get_args(Labels.model_fields["format"].annotation)) == {"coco", *ONE_FILE_EACH}
    assert set(IMAGE_LABEL_FORMATS) == set(get_args(ImageLabels.model_fields["format"].annotation))


@formats
def test_the_same_boxes_come_back(source, form):
    found = read_boxes(form, source(form, BOXES), ["a/1"])
    assert list(found) == ["a/1"]
    np.testing.assert_allclose(found["a/1"].boxes, [box for _, box in BOXES], atol=1e-4)
    assert found["a/1"].labels.tolist() == [0, 1]
    assert found["a/1"].boxes.dtype == np.float32 and found["a/1"].labels.dtype == np.int64


@formats
def test_a_picture_without_things_is_labelled_all_the_same(source, form):
    truth = read_boxes(form, source(form, []), ["a/1"])["a/1"]
    assert truth.boxes.shape == (0, 4) and truth.labels.shape == (0,)


@formats
def test_names_are_mapped_or_left_out(source, form):
    names = {"person": "car", "car": None}
    truth = read_boxes(form, source(form, BOXES, names=names), ["a/1"])["a/1"]
    assert truth.labels.tolist() == [1] and truth.boxes.round(3).tolist() == [list(BOXES[0][1])]


@formats
def test_an_unknown_class_is_one_line(source, form):
    with pytest.raises(
        DataError, match=r"(labels\.json: annotation 0|1\.txt(:\d| object 1|: object 1)).*class"
    ) as caught:
        read_boxes(form, source(form, [("tram", (1, 1, 9, 9))]), ["a/1"])
    assert "\n" not in str(caught.value)


@formats
def test_a_box_that_leaves_its_picture_is_clipped_and_told_of(source, form):
    boxes = [("person", (-6, 10, 20, 20)), ("car", (30, 10, 60.5, 20)), ("car", (50, -15, 90, 55))]
    truth = read_boxes(form, source(form, boxes), ["a/1"])["a/1"]
    np.testing.assert_allclose(truth.boxes, [[0, 10, 20, 20], [30, 10, 60, 20], [50, 0, 60, 40]], atol=1e-4)
    assert len(truth.clipped) == 2, "half a pixel is rounding"
    for line, place in zip(truth.clipped, ("0", "2") if form == "coco" else ("1", "3"), strict=True):
        file = "labels.json: annotation " if form == "coco" else "1.txt: object " if form == "voc" else "1.txt:"
        number = int(place) + (form == "kaist")
        assert f"{file}{number}: box [" in line and "leaves its image of 60×40 and is clipped" in line
    assert read_boxes(form, source(form, BOXES), ["a/1"])["a/1"].clipped == ()


@formats
@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((70, 10, 80, 20), "lies outside its image of 60×40"),
        ((10, -9, 20, -2), "lies outside its image of 60×40"),
        ((60.001, 10, 60.4, 20), "lies outside its image"),
        ((59.9999, 10, 70, 20), "lies outside its image"),
        ((30, 10, 29, 20), "has a width or height below 0"),
    ],
)
def test_a_box_that_is_none_is_one_line(source, form, box, said):
    with pytest.raises(
        DataError, match=rf"(labels\.json: annotation 1|1\.txt(:\d|: object 2)): box \[.*{said}"
    ) as caught:
        read_boxes(form, source(form, [BOXES[0], ("car", box)]), ["a/1"])
    assert "\n" not in str(caught.value)
    left_out = read_boxes(form, source(form, [BOXES[0], ("car", box)], names={"car": None}), ["a/1"])["a/1"]
    assert len(left_out.boxes) == 1, "of what is left out nobody reads the place"


@formats
@pytest.mark.parametrize("box", [(30, 10, 30, 20), (30, 20, 40, 20)])
def test_a_box_without_area_is_left_out_and_told_of(source, form, box):
    truth = read_boxes(form, source(form, [("car", box), BOXES[0]]), ["a/1"])["a/1"]
    assert truth.labels.tolist() == [0] and truth.boxes.shape == (1, 4) and truth.clipped == ()
    (line,) = truth.empty
    assert re.search(
        r"(labels\.json: annotation 0|1\.txt(:[12]|: object 1)): box \[.* has no area and is left out$", line
    )


@formats
def test_what_is_ignored_is_kept_with_labels_below_0(source, form):
    """By name for every class, by height for the box's own."""
    tall, low = ("person", (2, 4, 12, 34)), ("person", (20, 4, 30, 24))
    where = source(form, [tall, low, BOXES[1]], names={"car": "ignore"}, ignore=Ignore(below=30))
    truth = read_boxes(form, where, ["a/1"])["a/1"]
    assert truth.labels.tolist() == [0, ~0, ~0, ~1]
    assert truth.boxes.round(3).tolist() == [list(tall[1]), list(low[1])] + [list(BOXES[1][1])] * 2


def test_a_class_may_be_called_ignore(source):
    where = replace(source("kaist", [("ignore", (2, 4, 12, 24))]), classes=("person", "ignore"))
    assert read_boxes("kaist", where, ["a/1"])["a/1"].labels.tolist() == [1]
    with pytest.raises(DataError, match="class 'ignore' is not among"):
        read_boxes("kaist", replace(where, classes=("person",)), ["a/1"])


def test_numbers_that_are_none_make_no_box(source, tmp_path):
    where = source("kaist", [])
    for numbers in ("nan 1 5 5", "-inf 1 inf 5", "1 1 inf 5", "1 1 1e7 5"):
        (tmp_path / "labels/a/1.txt").write_text(f"% bbGt version=3\nperson {numbers} 0 0 0 0 0 0 0\n")
        with pytest.raises(DataError, match=r"1\.txt:2: box .* is not made of numbers"):
            read_boxes("kaist", where, ["a/1"])


@pytest.mark.parametrize("form", ONE_FILE_EACH)
def test_what_a_missing_file_means_is_said(source, form):
    assert read_boxes(form, source(form, None), ["a/1"]) == {}
    empty = read_boxes(form, source(form, None, missing_is_empty=True), ["a/1"])["a/1"]
    assert empty.boxes.shape == (0, 4)


def test_yolo_takes_polygons_and_the_picture_s_own_size(source, tmp_path):
    where = source("yolo", [])
    (tmp_path / "labels/a/1.txt").write_text("1 0.1 0.1 0.5 0.2 0.3 0.6\n\n")
    truth = read_boxes("yolo", where, ["a/1"])["a/1"]
    np.testing.assert_allclose(truth.boxes, [[6, 4, 30, 24]], atol=1e-4)
    (tmp_path / "labels/a/1.txt").write_text("1 30 20 10 10\n")
    with pytest.raises(DataError, match=r"1\.txt:1: 30 is no share of the picture .*are these pixels"):
        read_boxes("yolo", where, ["a/1"])


def test_kaist_ignores_what_is_marked_or_heavily_hidden(source, tmp_path):
    where = source("kaist", BOXES)
    path = tmp_path / "labels/a/1.txt"
    content = path.read_text()
    path.write_text(content.replace(" 0 0 0 0 0 0 0", " 0 0 0 0 0 1 0", 1))
    assert read_boxes("kaist", where, ["a/1"])["a/1"].labels.tolist() == [~0, 1]
    path.write_text(content.replace(" 0 0 0 0 0 0 0", " 2 0 0 0 0 0 0", 1))
    assert read_boxes("kaist", where, ["a/1"])["a/1"].labels.tolist() == [0, 1]
    assert read_boxes("kaist", replace(where, ignore=Ignore(hidden=2)), ["a/1"])["a/1"].labels.tolist() == [~0, 1]


def indexed_png(pixels, bits, colour=3):
    """A PNG of 1, 2, 4 or 8 bits whose indices are ``pixels``: with a palette of its own (3), or grey (0)."""
    per = 8 // bits
    padded = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % per))).reshape(len(pixels), -1, per)
    packed = (padded << (bits * np.arange(per - 1, -1, -1))).sum(axis=2).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    palette = np.random.default_rng(0).integers(0, 255, (2**bits, 3), np.uint8).tobytes()
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour, 0, 0, 0)
    own = [(b"PLTE", palette), (b"tRNS", b"\0\x40")] if colour == 3 else []
    chunks = [(b"IHDR", head), *own, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


INDICES = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_png_of_few_bits_or_with_a_palette_is_read_as_indices(tmp_path, bits, colour):
    (tmp_path / "m.png").write_bytes(indexed_png(INDICES, bits, colour))
    assert read_mask_file(tmp_path / "m.png", Masks(path="{id}.png"), CLASSES).tolist() == INDICES.tolist()


@pytest.mark.parametrize("colour", [0, 3])
def test_one_bit_is_enough_for_one_class(tmp_path, colour):
    (tmp_path / "m.png").write_bytes(indexed_png(INDICES % 2, 1, colour))
    assert read_mask_file(tmp_path / "m.png", Masks(path="{id}.png"), ("x",)).tolist() == (INDICES % 2).tolist()


@pytest.mark.parametrize(
    ("stored", "fields", "expected"),
    [
        (INDICES, {}, INDICES),
        (INDICES.astype(np.uint16), {}, INDICES),
        (np.repeat(INDICES[:, :, None], 3, 2), {}, INDICES),
        (np.dstack([INDICES * 0 + 9, INDICES * 0, INDICES]), {"channel": 2}, INDICES),
        (np.where(INDICES == 1, 7, INDICES), {"ignore": 7}, np.where(INDICES == 1, 255, INDICES)),
        (np.where(INDICES == 1, 255, INDICES), {}, np.where(INDICES == 1, 255, INDICES)),
        (INDICES, {"zero": "ignore"}, np.where(INDICES == 0, 255, INDICES)),
        (np.where(INDICES == 0, 255, INDICES - 1), {"zero": "class"}, np.where(INDICES == 0, 255, INDICES)),
    ],
)
def test_what_indices_mean(tmp_path, stored, fields, expected):
    write_image(tmp_path / "m.png", stored if stored.dtype == np.uint16 else stored.astype(np.uint8))
    found = read_mask_file(tmp_path / "m.png", Masks(path="{id}.png", **fields), CLASSES)
    assert found.dtype == np.uint8 and found.tolist() == expected.tolist()


def test_an_index_that_is_no_class_is_one_line(tmp_path):
    write_image(tmp_path / "m.png", INDICES.astype(np.uint16) * 300)
    with pytest.raises(DataError, match=r"m\.png: class index 300 at x 1, y 0; the card has 2 classes: 0 … 2 and 600"):
        read_mask_file(tmp_path / "m.png", Masks(path="{id}.png", ignore=600), CLASSES)


PALETTE = {"background": (0, 0, 0), "person": (220, 20, 60), "car": (0, 0, 142), "ignore": (255, 255, 255)}


def test_colours_are_classes_by_the_card_s_palette(tmp_path):
    colours = np.array([PALETTE[name] for name in ("background", "person", "car", "ignore")], np.uint8)
    write_image(tmp_path / "m.png", colours[[[0, 1], [2, 3]]])
    masks = Masks(path="{id}.png", palette=PALETTE)
    assert read_mask_file(tmp_path / "m.png", masks, CLASSES).tolist() == [[0, 1], [2, 255]]
    colours[2] = 0, 0, 143
    write_image(tmp_path / "m.png", colours[[[0, 1], [2, 3]]])
    with pytest.raises(DataError, match=r"the colour \[0, 0, 143\] at x 0, y 1 is not in the card's masks\.palette"):
        read_mask_file(tmp_path / "m.png", masks, CLASSES)
    write_image(tmp_path / "m.png", INDICES)
    with pytest.raises(DataError, match=r"has 1 channel, but the card says masks\.palette"):
        read_mask_file(tmp_path / "m.png", masks, CLASSES)


def test_colours_without_a_palette_and_channels_that_are_not_there_are_one_line(tmp_path):
    write_image(tmp_path / "m.png", np.dstack([INDICES, INDICES + 1, INDICES]))
    with pytest.raises(DataError, match=r"3 different channels: say masks\.palette"):
        read_mask_file(tmp_path / "m.png", Masks(path="{id}.png"), CLASSES)
    with pytest.raises(DataError, match=r"3 channels, the card says masks\.channel: 3"):
        read_mask_file(tmp_path / "m.png", Masks(path="{id}.png", channel=3), CLASSES)
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_mask_file(tmp_path / "none.png", Masks(path="{id}.png"), CLASSES)


CARD = """version: 1
name: test
rgb: rgb/{id}.png
thermal: thermal/{id}.png
rgb_size: [40, 60]
thermal_size: [20, 30]
FIELDS
thermal_spec: {unit: counts16}
splits:
  train: {ids: [dry/1, train/wet/2]}
  unlabelled: {ids: [dry/3]}
"""


def card(tmp_path, *fields):
    (tmp_path / "card.yaml").write_text(CARD.replace("FIELDS", "\n".join(fields)))
    return DatasetCard.load(tmp_path / "card.yaml")


def test_a_card_knows_its_tasks_and_their_classes(tmp_path):
    bare = card(tmp_path, "classes: [person]")
    assert bare.tasks() == () and not any(
        bare.samples("train")[0].has(task) for task in ("detect", "segment", "classify")
    )
    full = card(
        tmp_path, "classes: [person]", "masks: masks/{id}.png", "image_labels: {format: folder}",
        "image_classes: [wet, dry]", "labels: {format: yolo, path: 'labels/{id}.txt', missing: empty}",
    )  # fmt: skip
    assert full.tasks() == ("detect", "segment", "classify")
    assert full.classes_of("segment") == full.classes_of("detect") == ("person",)
    assert full.classes_of("classify") == ("wet", "dry")
    first, second = full.samples("train")
    assert (first.image_label, second.image_label) == (1, 0)
    assert first.has("detect") and first.has("segment") and first.has("classify")
    (free,) = full.samples("unlabelled")
    assert (free.boxes, free.mask, free.image_label) == (None, None, None)
    full.save(tmp_path / "copy.yaml")
    assert DatasetCard.load(tmp_path / "copy.yaml") == full
    assert "masks: masks/{id}.png\n" in (tmp_path / "copy.yaml").read_text()
    with pytest.raises(
        DataError, match=r"card\.yaml: masks: the card has none, .*'segment' \(model\.head\.kind\).*no task"
    ):
        bare.require("segment")


def test_classes_from_a_table(tmp_path):
    (tmp_path / "states.csv").write_text('\ufeffpair, state ,note\ndry/1,dry,"a, b"\nelse/9,wet,\n\n')
    fields = ("image_classes: [wet, dry]", "image_labels: {format: csv, path: states.csv, id: pair, label: state}")
    first, second = card(tmp_path, *fields).samples("train")
    assert first.image_label == 1 and second.image_label is None


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("pair,state\ndry/1,ice\n", r"states\.csv:2: class 'ice' is not among the card's image_classes \(wet, dry\)"),
        ("pair,state\ndry/1,dry\ndry/1,wet\n", r"states\.csv:3: a second row for the pair 'dry/1'"),
        ("pair,state\ndry/1,dry\ndry/1.png,wet\n", r"states\.csv:3: a second row for the pair 'dry/1'"),
        ("pair,state\ndry/1\n", r"states\.csv:2: 1 columns, the header has 2"),
        ("pair,kind\ndry/1,dry\n", r"states\.csv:1: no columns are called 'state' .*; there is pair, kind"),
        ("", r"states\.csv:1: no columns are called 'pair' .*; there is none"),
        ("pair,state\n../x,dry\n", r"states\.csv:2: the id '../x' climbs out"),
        ('pair,state\n"dry/1,dry\n', r"states\.csv:2: not a table"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, table, text):
    (tmp_path / "states.csv").write_text(table)
    fields = ("image_classes: [wet, dry]", "image_labels: {format: csv, path: states.csv, id: pair, label: state}")
    with pytest.raises(DataError, match=text):
        card(tmp_path, *fields).samples("train")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (["masks: masks/{id}.png"], "masks need classes"),
        (["image_labels: {format: folder}"], "image_labels need image_classes"),
        (["image_classes: [a, a]"], "image_classes: a class is listed twice"),
        (
            ["image_classes: [dry]", "image_labels: {format: csv}"],
            r"card\.yaml:8: image_labels: format csv needs a path",
        ),
        (
            ["classes: [background, a]", "masks: 'm/{id}.png'"],
            r"classes: 'background' is no class of a mask; leave it out",
        ),
        (["classes: [a]", "masks: {path: 'm/{id}.png', palette: {b: [0, 0, 0]}}"], r"masks\.palette: 'b' is none of"),
        (["classes: [a]", "masks: {path: 'm/{id}.png', palette: {a: [0, 0, 256]}}"], r"masks\.palette\.a\.2"),
        (["classes: [a]", "masks: {path: '../{id}.png'}"], r"masks\.path: expected a path that does not climb out"),
        (["classes: [a]", "labels: {format: voc, path: x.xml}"], r"labels: .*a path pattern holds \{id\}"),
        (["classes: [a]", "labels: {format: coco, path: x.json, names: {b: c}}"], r"labels\.names: 'c' is not among"),
        (["canvas: [100000, 100000]"], r"canvas: \[100000, 100000\] is more than 128 megapixels"),
    ],
)
def test_a_wrong_card_is_one_line(tmp_path, fields, text):
    with pytest.raises(DataError, match=text) as caught:
        card(tmp_path, *fields)
    assert "\n" not in str(caught.value)


def test_a_pair_without_a_mask_cannot_be_read(synthetic_card):
    loaded = DatasetCard.load(synthetic_card)
    mask = read_mask(loaded.samples("train")[0], loaded)
    assert mask.shape == loaded.rgb_size and mask.max() <= len(loaded.classes)
    with pytest.raises(DataError, match="has no mask"):
        read_mask(loaded.samples("unlabelled")[0], loaded)


def test_the_radiometric_masks_are_read(shared_data):
    found = sorted((shared_data / "radiometric").rglob("*mask*.png"))
    if not found:
        pytest.skip("no masks there")
    for path in found:
        mask = read_mask_file(path, Masks(path="{id}.png"), ("bole", "cavity", "bark"))
        assert set(np.unique(mask).tolist()) <= {0, 1, 2, 3, 255}
