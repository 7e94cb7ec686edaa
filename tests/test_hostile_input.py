"""Files that others broke, or made to break us: one line each, bounded memory, nothing executed or read outside."""

import io
import json
import os
import pickle
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.card import DatasetCard
from data.card_fields import ImageLabels, Masks
from data.coco import read_coco
from data.errors import DataError
from data.ids import read_ids, safe_id
from data.images import read_header, read_rgb, read_thermal
from data.labels.boxes import ONE_FILE_EACH, read_boxes
from data.labels.image_classes import read_csv_labels
from data.labels.masks import read_mask_file
from data.labels.source import BoxSource
from data.labels.xml_file import MAX_XML, read_xml
from data.text_file import read_json
from data.thermal import ThermalSpec
from data.yaml_file import MAX_YAML, read_yaml

HEADROOM = 600 << 20
"""Bytes of address space that a call may take on top; what these files ask for is up to 10¹⁰ of them."""
SPEC = ThermalSpec(unit="counts16")
MASKS = Masks(path="{id}.png")


@contextmanager
def bounded() -> Iterator[None]:
    """Let nothing in the block take more than HEADROOM (Linux)."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(call, *arguments, match=""):
    """The call fails with one printable line."""
    with bounded(), pytest.raises(DataError, match=match) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text.isprintable() and 10 < len(text) < 1000, text
    return text


def survives(call, *arguments):
    """The call answers, or fails as it should."""
    try:
        call(*arguments)
    except DataError as error:
        assert str(error).isprintable()


def image(suffix):
    noise = np.random.default_rng(0).integers(0, 255, (24, 32), np.uint8)
    if suffix == ".npy":
        file = io.BytesIO()
        np.save(file, noise.astype(np.uint16))
        return file.getvalue()
    return cv2.imencode(suffix, noise)[1].tobytes()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png(width, height, depth=8, colour=0):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*chunk) for chunk in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(4096))), (b"IEND", b""))
    )


def huge_jpeg():
    raw = image(".jpg")
    at = raw.index(b"\xff\xc0") + 5
    return raw[:at] + struct.pack(">HH", 65500, 65500) + raw[at + 4 :]


def huge_bmp():
    raw = image(".bmp")
    return raw[:18] + struct.pack("<ii", 100_000, 100_000) + raw[26:]


def huge_tiff():
    entries = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 100_000), (279, 4, 1, 100)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(104)


def huge_npy(shape="(100000, 100000)", kind="<u2"):
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(64)


class Bomb:
    """What numpy's pickles would run."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def pickled_npy():
    file = io.BytesIO()
    np.save(file, np.array([[Bomb()]], object), allow_pickle=True)
    return file.getvalue()


PICTURES = {
    "random bytes": random.Random(0).randbytes(4096),
    "zeros": bytes(4096),
    "text": b"not a picture " * 40,
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "jpeg signature alone": b"\xff\xd8\xff",
    "tiff signature alone": b"II*\0\xff\xff\xff\xff",
    "npy signature alone": b"\x93NUMPY",
    "random after png": b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(2000),
    "random after jpeg": b"\xff\xd8\xff\xe0" + random.Random(2).randbytes(2000),
    "random after tiff": b"MM\0*" + random.Random(3).randbytes(2000),
    "huge png": huge_png(100_000, 100_000),
    "huge png of 16 bits": huge_png(100_000, 100_000, 16),
    "huge png in colour": huge_png(100_000, 100_000, 8, 6),
    "huge png with a palette": huge_png(100_000, 100_000, 8, 3),
    "wide png": huge_png(2**31 - 1, 1),
    "png without pixels": huge_png(0, 0),
    "png of less than it says": huge_png(3000, 3000),
    "huge jpeg": huge_jpeg(),
    "huge bmp": huge_bmp(),
    "huge tiff": huge_tiff(),
    "huge npy": huge_npy(),
    "npy without channels": huge_npy("(4, 4, 0)"),
    "npy of negative size": huge_npy("(-1, 5)"),
    "npy that overflows": huge_npy("(4611686018427387904, 8)"),
    "npy with an expression": huge_npy("(__import__('os').getpid(), 1)"),
    "npy of objects": huge_npy("(1, 1)", "|O"),
    "pickled npy": pickled_npy(),
}
TRUNCATED = [(suffix, share) for suffix in (".png", ".jpg", ".tif", ".bmp", ".npy") for share in (0.1, 0.5, 0.95)]


@pytest.mark.parametrize("name", PICTURES)
def test_broken_pictures(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.png"
    path.write_bytes(PICTURES[name])
    for call, *more in ((read_rgb,), (read_thermal, SPEC), (read_mask_file, MASKS, ("a",))):
        refused(call, path, *more, match=r"x\.png")
    survives(read_header, path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("suffix", "share"), TRUNCATED)
def test_truncated_pictures(tmp_path, suffix, share):
    raw = image(suffix)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(raw[: int(share * len(raw))])
    for call, *more in ((read_rgb,), (read_thermal, SPEC), (read_mask_file, MASKS, ("a",))):
        refused(call, path, *more, match=f"x{suffix}")


LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
SECRET = "the-secret-outside"
XML = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation><object>&l11;</object></annotation>',
    "quadratic": f'<!DOCTYPE a [<!ENTITY x "{"x" * 50_000}">]><annotation>{"&x;" * 50_000}</annotation>',
    "external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file://OUTSIDE">]><annotation><object><name>&x;</name></object></annotation>',
    "parameter entity": '<!DOCTYPE a [<!ENTITY % x SYSTEM "file://OUTSIDE"> %x;]><annotation/>',
    "external dtd": '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
    "undeclared entity": "<annotation>&x;</annotation>",
    "deep": "<annotation>" + "<a>" * 100_000,
    "cut": "<annotation><object><name>person</na",
    "empty": "",
    "text": "person 1 2 3 4",
    "html": "<html><body/></html>",
    "another encoding": '<?xml version="1.0" encoding="x-none"?><annotation/>',
    "a multi-byte encoding": '<?xml version="1.0" encoding="shift_jis"?><annotation/>',
    "nul": "<annotation>\0</annotation>",
    "no name": "<annotation><object/></annotation>",
    "no box": "<annotation><object><name>person</name></object></annotation>",
    "a box of words": "<annotation><object><name>person</name><bndbox><xmin>a</xmin></bndbox></object></annotation>",
    "a box of nan": "<annotation><object><name>person</name><bndbox>"
    + "".join(f"<{side}>nan</{side}>" for side in ("xmin", "ymin", "xmax", "ymax"))
    + "</bndbox></object></annotation>",
    "an endless box": "<annotation><object><name>person</name><bndbox>"
    + "".join(f"<{side}>1e999</{side}>" for side in ("xmin", "ymin", "xmax", "ymax"))
    + "</bndbox></object></annotation>",
    "a size of words": "<annotation><size><width>w</width><height>1</height></size></annotation>",
}


def source(folder, form):
    """Where the boxes of the pair 1 lie, in a file of that format."""
    return BoxSource(folder, f"{{id}}.{form}", "{id}.png", ("person", "car"), rgb_size=(24, 32))


@pytest.mark.parametrize("name", XML)
def test_xml(tmp_path, name):
    (tmp_path / "outside.txt").write_text(SECRET)
    (tmp_path / "1.voc").write_text(XML[name].replace("OUTSIDE", str(tmp_path / "outside.txt")))
    assert SECRET not in refused(read_boxes, "voc", source(tmp_path, "voc"), ["1"], match=r"1\.voc")


def test_large_xml(tmp_path):
    (tmp_path / "1.xml").write_bytes(b"<annotation>" + b" " * MAX_XML)
    refused(read_xml, tmp_path / "1.xml", match="more than 16384 KiB")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{k}: &m{k} {{<<: [{', '.join([f'*m{k - 1}'] * 9)}]}}\n" for k in range(1, 12))
YAML = {
    "os.system": "a: !!python/object/apply:os.system ['touch executed']\n",
    "subprocess": "!!python/object/new:subprocess.Popen [['touch', 'executed']]\n",
    "name": "a: !!python/name:os.system\n",
    "module": "a: !!python/module:os\n",
    "tuple": "a: !!python/tuple [1]\n",
    "local tag": "a: !run 'touch executed'\n",
    "known tag": "a: !!int x\n",
    "binary": "a: !!binary '****'\n",
    "timestamp": "a: !!timestamp x\n",
    "aliases": BOMB,
    "merges": MERGES,
    "itself": "&a [*a]\n",
    "itself as a value": "a: &a {b: *a}\n",
    "unknown alias": "a: *b\n",
    "deep": "[" * 1500,
    "deep mappings": "".join(" " * k + "a:\n" for k in range(300)),
    "a day that is none": "a: 2024-99-99\n",
    "a number of 10 000 digits": "a: " + "9" * 10_000 + "\n",
    "a list as a key": "[1, 2]: x\n",
    "a mapping as a key": "{a: b}: x\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "tabs": "a:\n\t- b\n",
    "control characters": "a: \x07\n",
    "not utf-8": b"a: \xff\xfe\n",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = YAML[name]
    (tmp_path / "card.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(DatasetCard.load, tmp_path / "card.yaml", match=r"card\.yaml")
    assert not (tmp_path / "executed").exists()


def test_large_yaml(tmp_path):
    (tmp_path / "card.yaml").write_bytes(b"#" * (MAX_YAML + 1))
    refused(read_yaml, tmp_path / "card.yaml", match="more than 8192 KiB")


ONE = {"id": 1, "file_name": "1.png", "width": 32, "height": 24}
KINDS = [{"id": 1, "name": "person"}]
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}


def coco(**changes):
    return json.dumps({"images": [ONE], "categories": KINDS, "annotations": [BOX]} | changes)


JSON = {
    "deep": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "cut": coco()[:-20],
    "not utf-8": b'{"images": "\xff"}',
    "a number of 10 000 digits": coco(images=[ONE | {"width": 0}]).replace(": 0", ": " + "9" * 10_000),
    "text": '"images"',
    "null": "null",
    "no images": "{}",
    "images that are none": coco(images=[1]),
    "annotations that are none": coco(annotations={"a": 1}),
    "categories that are none": coco(categories=["person"]),
    "an id that is a list": coco(images=[ONE | {"id": [1]}]),
    "ids of two kinds": coco(categories=[*KINDS, {"id": "x", "name": "car"}]),
    "an image id that is an object": coco(annotations=[BOX | {"image_id": {}}]),
    "a class that is a list": coco(annotations=[BOX | {"category_id": []}]),
    "a width in words": coco(images=[ONE | {"width": "32"}]),
    "a width below 0": coco(images=[ONE | {"width": -32}]),
    "a width without end": coco(images=[ONE | {"width": float("inf")}]),
    "a name that is a number": coco(images=[ONE | {"file_name": 7}]),
    "a name that is long": coco(images=[ONE | {"file_name": "1" * 100_000 + ".png"}]),
    "a box in words": coco(annotations=[BOX | {"bbox": "1 1 5 5"}]),
    "a box of text": coco(annotations=[BOX | {"bbox": ["1", "1", "5", "5"]}]),
    "a box of nan": coco(annotations=[BOX | {"bbox": [float("nan")] * 4}]),
    "a box without end": coco(annotations=[BOX | {"bbox": [0, 0, float("inf"), 5]}]),
    "a box of 400 digits": coco(annotations=[BOX | {"bbox": [0, 0, 10**400, 5]}]),
    "a box that is true": coco(annotations=[BOX | {"bbox": [True, 1, 5, 5]}]),
    "a name that climbs": coco(images=[ONE | {"file_name": "../../etc/passwd.png"}]),
    "a name from the root": coco(images=[ONE | {"file_name": "/etc/passwd.png"}]),
    "a name of another system": coco(images=[ONE | {"file_name": "..\\..\\secret.png"}]),
    "a name with a nul": coco(images=[ONE | {"file_name": "a\0b.png"}]),
    "a name with half a letter": coco(images=[ONE | {"file_name": "a\ud800.png"}]),
    "a name that clears the screen": coco(images=[ONE | {"file_name": "\x1b[2J\n.png"}]),
}


@pytest.mark.parametrize("name", JSON)
def test_json(tmp_path, name):
    content = JSON[name]
    (tmp_path / "1.coco").write_bytes(content if isinstance(content, bytes) else content.encode())
    where = BoxSource(tmp_path, "1.coco", "{id}.png", ("person",), rgb_size=None)
    refused(read_boxes, "coco", where, [], match=r"1\.coco")


LINES = {
    "yolo": ["0 1 2", "x 0.1 0.1 0.1 0.1", "9 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1",
             "0 inf 0.5 0.1 0.1", "0 1e308 0.5 0.1 0.1", "0 0.5 0.5 -0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9",
             "9" * 6000 + " 0.5 0.5 0.1 0.1", "\0", "0 1.9 0.5 1.0 0.1"],
    "kaist": ["", "person 1 1 5 5", "% bbGt version=3\nperson 1 1", "% bbGt version=3\nperson a b c d 0 0 0 0 0 0 0",
              "% bbGt version=3\nperson nan 1 5 5 0 0 0 0 0 0 0", "% bbGt version=3\ntram 1 1 5 5 0 0 0 0 0 0 0",
              "% bbGt version=3\nperson 1 1 1e300 1e300 0 0 0 0 0 0 0"],
}  # fmt: skip


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in LINES.items() for text in texts])
def test_lines(tmp_path, form, text):
    (tmp_path / f"1.{form}").write_text(text)
    refused(read_boxes, form, source(tmp_path, form), ["1"], match=rf"1\.{form}:\d")


CLIMBING = ["../x", "a/../../x", "/etc/passwd", "..", ".", "a/./x", "C:/x", "C:x", "..\\x", "a\\..\\..\\x", "a\0b",
            "a\x1b[2J", "", " ", "a//b" * 200, "x" * 300, "\ud800", "a\u2028b"]  # fmt: skip
CARD = """version: 1
name: test
rgb: rgb/{id}.png
thermal: thermal/{id}.png
rgb_size: [24, 32]
thermal_size: [24, 32]
thermal_spec: {unit: counts16}
image_classes: [a]
image_labels: {format: csv, path: x.csv}
"""


@pytest.mark.parametrize("one", CLIMBING)
def test_ids_that_climb_out(tmp_path, one):
    refused(safe_id, one, "list.txt:1", match=r"list\.txt:1")
    card = tmp_path / "card.yaml"
    card.write_text(CARD + f"splits: {{train: {{ids: [{json.dumps(one)}]}}}}\n")
    (tmp_path / "x.csv").write_text("id,label\n")
    refused(lambda: DatasetCard.load(card).samples("train"), match=r"card\.yaml")


@pytest.mark.parametrize("one", ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:/x", "x" * 300])
def test_lists_and_tables_that_climb_out(tmp_path, one):
    (tmp_path / "train.txt").write_text(f"a/1\n{one}\n")
    refused(read_ids, tmp_path / "train.txt", match=r"train\.txt:2")
    (tmp_path / "x.csv").write_text(f"id,label\n{one},a\n")
    refused(read_csv_labels, ImageLabels(format="csv", path="x.csv"), tmp_path, ["a"], [], match=r"x\.csv:2")


@pytest.mark.parametrize(
    "line",
    [
        "rgb: ../../{id}.png", "thermal: 'a/../../{id}.png'", "scenes: ../../x.json", "root: \"a\\0b\"",
        "classes: [a]\nlabels: {format: coco, path: ../x.json}", "classes: [a]\nmasks: '../../{id}.png'",
        "image_labels: {format: csv, path: ../x.csv}", "rgb_size: [100000, 100000]",
        "splits: {train: {file: ../x.txt}}", "rgb: '{id}{id.__class__}.png'",
        "rgb: '{0}.png'", "rgb_size: [1e9, 1]", "thermal_size: [-1, 5]",
    ],
)  # fmt: skip
def test_cards_that_climb_out_or_ask_for_too_much(tmp_path, line):
    key = line.partition(":")[0]
    kept = [text for text in (CARD + "splits: {train: {ids: [a]}}").splitlines() if not text.startswith(f"{key}:")]
    (tmp_path / "card.yaml").write_text("\n".join([*kept, line]) + "\n")
    refused(DatasetCard.load, tmp_path / "card.yaml", match=r"card\.yaml")


@pytest.fixture(params=["a loop of links", "a pipe", "a folder", "an endless device", "a dangling link"])
def no_file(request, tmp_path):
    """A path that is there, or is linked to, and cannot be read to its end."""
    path = tmp_path / "x.png"
    match request.param:
        case "a loop of links":
            (tmp_path / "y").symlink_to(path)
            path.symlink_to(tmp_path / "y")
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "an endless device":
            path.symlink_to("/dev/zero")
        case _:
            path.symlink_to(tmp_path / "nothing")
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes that are files")
def test_what_is_no_plain_file(no_file):
    calls = (
        (read_rgb,), (read_header,), (read_thermal, SPEC), (read_mask_file, MASKS, ("a",)), (read_yaml,), (read_xml,),
        (read_coco, None), (read_ids,), (read_json, "scenes"), (DatasetCard.load,),
    )  # fmt: skip
    for call, *more in calls:
        refused(call, no_file, *more, match=r"x\.png")


def test_a_data_set_in_a_loop_of_folders(tmp_path):
    (tmp_path / "rgb").symlink_to(tmp_path / "rgb")
    (tmp_path / "card.yaml").write_text(CARD + "splits: {train: {ids: [a/1]}}\n")
    (tmp_path / "x.csv").write_text("id,label\na/1,a\n")
    (sample,) = DatasetCard.load(tmp_path / "card.yaml").samples("train")
    refused(read_rgb, sample.rgb, match=r"rgb/a/1\.png")


def test_errors_cross_processes_as_they_are():
    error = DataError("a\nb\x1b")
    assert str(error) == "a\\nb\\x1b" and str(pickle.loads(pickle.dumps(error))) == str(error)


# Below, hypothesis looks for inputs that nobody thought of.

explore = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))


@contextmanager
def file_of(raw: bytes, name: str = "1.txt") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        yield path


@explore
@given(st.binary(max_size=200) | st.text("-?:,[]{}#&*!|>'\"%@`\n\t a1<=", max_size=80).map(str.encode))
def test_any_yaml(raw):
    with file_of(raw) as path:
        survives(read_yaml, path)
        survives(DatasetCard.load, path)


@explore
@given(st.dictionaries(st.sampled_from(["images", "annotations", "categories"]), values | st.lists(values, max_size=3)))
def test_any_json(content):
    with file_of(json.dumps(content).encode()) as path:
        survives(read_coco, path, None)


@explore
@given(
    st.sampled_from(
        ["id", "file_name", "width", "height", "image_id", "category_id", "bbox", "name", "split", "iscrowd"]
    ),
    values,
    st.booleans(),
)
def test_any_field_of_coco(field, value, with_classes):
    content = json.loads(coco())
    for entries in content.values():
        for entry in entries:
            if field in entry or field in ("split", "iscrowd"):
                entry[field] = value
    with file_of(json.dumps(content).encode()) as path:
        survives(read_coco, path, ["person"] if with_classes else None)
        survives(read_boxes, "coco", BoxSource(path.parent, path.name, "{id}.png", ("person",)), [])


VOC = (
    b'<?xml version="1.0"?><annotation><size><width>32</width><height>24</height></size><object><name>person</name>'
    b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


@st.composite
def spoilt(draw, raw):
    """Bytes of a sound file with a few of them changed, doubled or cut out."""
    content = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 8))
        content[at : at + length] = draw(st.binary(max_size=8))
    return bytes(content)


@explore
@given(spoilt(VOC) | st.binary(max_size=100))
def test_any_xml(raw):
    with file_of(raw, "1.voc") as path:
        survives(read_boxes, "voc", source(path.parent, "voc"), ["1"])


@explore
@given(st.sampled_from(sorted(ONE_FILE_EACH)), st.text("0123456789.-+einfa% \n\t", max_size=80), st.booleans())
def test_any_lines(form, text, begun):
    with file_of((("% bbGt version=3\n" if begun else "") + text).encode(), f"1.{form}") as path:
        survives(read_boxes, form, source(path.parent, form), ["1"])


@explore
@given(
    st.binary(max_size=80) | st.text('id,label"\n\r;a1/.', max_size=80).map(lambda text: ("id,label\n" + text).encode())
)
def test_any_table(raw):
    with file_of(raw) as path:
        survives(read_csv_labels, ImageLabels(format="csv", path=path.name), path.parent, ["a"], [])
        survives(read_ids, path)


@explore
@given(st.sampled_from([".png", ".jpg", ".tif", ".bmp", ".npy"]).flatmap(lambda suffix: spoilt(image(suffix))))
def test_any_picture(raw):
    with file_of(raw, "x.png") as path:
        for call, *more in ((read_header,), (read_rgb,), (read_thermal, SPEC), (read_mask_file, MASKS, ("a",))):
            survives(call, path, *more)


@explore
@given(st.text(max_size=40) | st.text("./\\:a", max_size=12))
def test_an_id_is_refused_or_stays_inside(one):
    try:
        safe_id(one, "here")
    except DataError:
        return
    root = Path("/sets/one")
    assert Path(os.path.normpath(root / one)).is_relative_to(root) and Path(os.path.normpath(root / one)) != root
