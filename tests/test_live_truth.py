"""What ``rgbt live`` answers on files is what ``rgbt evaluate`` measures: frame by frame, for each task."""

import json
import shutil
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

from data.card import DatasetCard
from data.images import read_rgb, read_thermal, write_image
from data.pairs import load_pair
from data.prepare import Preparer, fit
from data.rig import Rig
from data.sample import SENSORS
from data.thermal import ThermalSpec
from export.write import export_bundle
from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model
from pipelines.cli import main
from pipelines.evaluate import measure, open_subject

SPLIT = "test"
KINDS = {"counts16": "16 bits behind a rig that turns and shifts", "canvas8": "8 bits on a canvas of another size"}
MEDIA = [pytest.param(kind, media, id=f"{kind}-{media}") for kind in KINDS for media in ("folder", "video")]
SIZE, CANVAS = (64, 96), (72, 88)


@dataclass(frozen=True)
class Recording:
    """The pairs of a card's split, and the same pairs as live reads them."""

    card: DatasetCard
    sources: dict
    """Medium → sensor → what --rgb and --thermal are given."""
    rig: list
    """Options."""


@pytest.fixture(scope="module")
def recordings(synthetic_card, synthetic_video, tmp_path_factory):
    """Kind → the pairs of a split."""
    home = tmp_path_factory.mktemp("truth")
    rig = Rig.load(synthetic_video / "rig.yaml").model_copy(update={"time_offset_ms": 0.0})
    assert rig.homography is not None
    made = {}
    for kind in KINDS:
        root = shutil.copytree(synthetic_card.parent, home / kind)
        card, options = DatasetCard.load(root / "card.yaml"), []
        if kind == "counts16":
            rig.save(root / "rig.yaml")
            changes, options = {"rig": "rig.yaml"}, ["--rig", str(root / "rig.yaml")]
        else:
            for sample in (*card.samples(SPLIT), card.samples("val")[0]):
                counts = read_thermal(sample.thermal, card.thermal_spec).astype(np.float32)
                write_image(sample.thermal, cv2.normalize(counts, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8))
            sizes = {"canvas": CANVAS, "rgb_size": None, "thermal_size": None}
            changes = {**sizes, "thermal_spec": ThermalSpec(unit="intensity8")}
        card.model_copy(update=changes).save(root / "card.yaml")
        card = DatasetCard.load(root / "card.yaml")
        made[kind] = Recording(card, {"folder": as_folders(card, root), "video": as_videos(card, root)}, options)
    return made


def as_folders(card, root):
    """The split's pictures, apart from those of other splits."""
    for sample in card.samples(SPLIT):
        for sensor in SENSORS:
            source = getattr(sample, sensor)
            (root / "live" / sensor).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / "live" / sensor / source.name)
    return {sensor: str(root / "live" / sensor) for sensor in SENSORS}


def as_videos(card, root):
    """The split's pictures as two videos that lose nothing: every bit of them is in the file."""
    samples = card.samples(SPLIT)
    pictures = {
        "rgb": [read_rgb(sample.rgb) for sample in samples],
        "thermal": [read_thermal(sample.thermal, card.thermal_spec) for sample in samples],
    }
    for sensor, images in pictures.items():
        stored = "gray16le" if images[0].dtype == np.uint16 else "gray"
        given, stored = ("rgb24", "bgr0") if sensor == "rgb" else (stored, stored)
        with av.open(str(root / f"{sensor}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25, options={"level": "3"})
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = stored
            for number, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format=given)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return {sensor: str(root / f"{sensor}.mkv") for sensor in SENSORS}


@pytest.fixture(scope="module")
def bundle_of(recordings, tmp_path_factory):
    """Makes the bundle of an untrained model for a recording and a task; each once."""
    made = {}

    def make(kind, task):
        if (kind, task) not in made:
            made[kind, task] = export(recordings[kind].card, task, tmp_path_factory.mktemp("bundles") / task)
        return made[kind, task]

    return make


def export(card, task, out):
    inputs = card.inputs()
    config = ModelConfig.model_validate(
        {
            "size": SIZE,
            "rgb": RgbEncoder(arch="test_resnet", weights=None),
            "thermal": ThermalEncoder(arch="test_resnet"),
            "head": {"kind": task, "width": 16},
            "classes": tuple(card.classes_of(task)),
            "inputs": inputs.model_dump(mode="json"),
        }
    )
    model, _ = build_model(config, 0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.blend.parameters():  # zero at the start, so that thermal would not matter
            parameter.normal_(0, 0.1, generator=noise)
    pair, _ = load_pair(card.samples("val")[0], Preparer(inputs, card.load_rig()), task=None)
    if task != "classify":
        spread(model.eval(), model.head.heat[-1] if task == "detect" else model.head.score[-1], pair)
    golden = {"rgb": pair.rgb[None], "thermal": pair.thermal[None]}
    export_bundle(model.eval(), config.inputs, config.classes, config.sensors, golden, {}, "a" * 64, out, task)
    return out


@torch.no_grad()
def spread(model, layer, pair):
    """Scale the last layer so that its logits lie around −2 by 2: an untrained one has a single answer for all."""
    seen = []
    hook = layer.register_forward_hook(lambda module, given, logits: seen.append(logits))
    model(torch.from_numpy(pair.rgb)[None], torch.from_numpy(pair.thermal.astype(np.float32))[None], torch.ones(1, 2))
    hook.remove()
    scale = 2 / seen[0].std((0, 2, 3))
    layer.bias.copy_((layer.bias - seen[0].mean((0, 2, 3))) * scale - 2)
    layer.weight *= scale[:, None, None, None]


def evaluated(bundle, card, without=()):
    """What evaluate is answered on each pair, in the split's order."""
    count = len(card.samples(SPLIT))
    result = measure(open_subject(bundle), card, SPLIT, without, examples=count)
    assert [example.id for example in result.examples] == [sample.id for sample in card.samples(SPLIT)]
    return [example.answer for example in result.examples]


def played(bundle, sources, options, tmp_path):
    """The lines of JSON that live writes."""
    jsonl = tmp_path / "out.jsonl"
    given = [word for sensor, source in sources.items() for word in (f"--{sensor}", source)]
    assert main(["live", str(bundle), *given, *options, "--jsonl", str(jsonl), "--json"]) == 0
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [line["frames"] for line in lines] == [
        [number if sensor in sources else None for sensor in SENSORS] for number in range(len(lines))
    ]
    return lines


def require_same_boxes(line, boxes, classes):
    told = np.array([[*box["box"], box["score"], classes.index(box["class"])] for box in line["boxes"]])
    assert len(told) == len(boxes) > 0
    np.testing.assert_allclose(told[:, :4], boxes[:, :4], rtol=0, atol=0.1)
    np.testing.assert_allclose(told[:, 4], boxes[:, 4], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(told[:, 5], boxes[:, 5])


@pytest.mark.parametrize(("kind", "media"), MEDIA)
def test_boxes_are_those_that_evaluate_measures(recordings, bundle_of, tmp_path, kind, media):
    recording, bundle = recordings[kind], bundle_of(kind, "detect")
    classes = recording.card.classes_of("detect")
    expected = [answer["boxes"][answer["boxes"][:, 4] > 0].copy() for answer in evaluated(bundle, recording.card)]
    if kind == "canvas8":  # live tells pixels of the delivered frame
        for boxes in expected:
            boxes[:, :4] /= fit(SIZE, CANVAS)[0]
    everything = played(bundle, recording.sources[media], [*recording.rig, "--score", "0"], tmp_path)
    sure = played(bundle, recording.sources[media], recording.rig, tmp_path)
    assert len(everything) == len(sure) == len(expected)
    for line, some, boxes in zip(everything, sure, expected, strict=True):
        require_same_boxes(line, boxes, classes)
        require_same_boxes(some, boxes[boxes[:, 4] >= 0.3], classes)
    assert any(len(some["boxes"]) < len(line["boxes"]) for some, line in zip(sure, everything, strict=True))
    first, second = (np.array([box["score"] for box in line["boxes"]]) for line in everything[:2])
    assert first.shape != second.shape or abs(first - second).max() > 1e-3  # of pairs that can be told apart


@pytest.mark.parametrize("sensor", SENSORS)
def test_one_sensor_alone_is_the_row_without_the_other(recordings, bundle_of, tmp_path, sensor):
    recording, bundle = recordings["counts16"], bundle_of("counts16", "detect")
    other = next(one for one in SENSORS if one != sensor)
    expected = evaluated(bundle, recording.card, [other])
    source = {sensor: recording.sources["folder"][sensor]}
    lines, classes = played(bundle, source, [*recording.rig, "--score", "0"], tmp_path), recording.card.classes
    for line, answer in zip(lines, expected, strict=True):
        require_same_boxes(line, answer["boxes"][answer["boxes"][:, 4] > 0], classes)


def class_map_of(line, classes):
    """The map whose run lengths a line holds."""
    found = None
    for name, mask in line["masks"].items():
        values = np.repeat(np.arange(len(mask["counts"])) % 2, mask["counts"]).astype(bool)
        found = np.zeros(mask["size"], np.uint8) if found is None else found
        found[values.reshape(mask["size"], order="F")] = 1 + classes.index(name)
    return found


@pytest.mark.parametrize("media", ["folder", "video"])
def test_class_maps_are_those_that_evaluate_measures(recordings, bundle_of, tmp_path, media):
    recording, bundle = recordings["canvas8"], bundle_of("canvas8", "segment")
    classes = recording.card.classes_of("segment")
    expected = evaluated(bundle, recording.card)
    lines = played(bundle, recording.sources[media], ["--rle"], tmp_path)
    height, width = fit(SIZE, CANVAS)[1]  # a canvas holds the frame at its top left
    for line, answer in zip(lines, expected, strict=True):
        found = class_map_of(line, classes)
        truth, confidence = (answer[name][:height, :width] for name in ("class_map", "confidence"))
        np.testing.assert_array_equal(found, truth)
        for name, figures in line["classes"].items():
            there = truth == (0 if name == "background" else 1 + classes.index(name))
            assert figures["share"] == pytest.approx(there.mean(), abs=1e-4)
            assert figures["confidence"] == pytest.approx(confidence[there].mean(), abs=1e-4)
    assert len({json.dumps(line["masks"]) for line in lines}) == len(lines) and np.ptp(expected[0]["class_map"])


@pytest.mark.parametrize("media", ["folder", "video"])
def test_probabilities_are_those_that_evaluate_measures(recordings, bundle_of, tmp_path, media):
    recording, bundle = recordings["counts16"], bundle_of("counts16", "classify")
    classes = recording.card.classes_of("classify")
    expected = evaluated(bundle, recording.card)
    lines = played(bundle, recording.sources[media], recording.rig, tmp_path)
    for line, answer in zip(lines, expected, strict=True):
        told = [line["probabilities"][name] for name in classes]
        np.testing.assert_allclose(told, answer["probabilities"], rtol=0, atol=1e-4)
        assert line["class"] == classes[int(answer["probabilities"].argmax())]
    assert abs(expected[0]["probabilities"] - expected[1]["probabilities"]).max() > 1e-3
