"""The dense form does around its network, in numpy, what the full graph does: canvases and answers are equal."""

import numpy as np
import pytest
import torch

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.dense_form import answer, decode, prepare, row_by_row
from export.dense_spec import DenseSpec
from export.errors import ExportError
from export.variants.dense_model import dense_model, dense_spec
from fusion.blends import BLENDS
from fusion.model import Blend, ModelConfig, RgbEncoder, ThermalEncoder, build_model
from fusion.model_config import Head

CLASSES = ("person", "car", "dog")
TASKS = ("detect", "segment", "classify")
SIZES = [((48, 64), (30, 40)), ((64, 96), (64, 96)), ((50, 70), (64, 96)), ((128, 192), (33, 17)), ((97, 61), (60, 80))]
"""RGB and thermal, height and width: smaller than the canvas, equal, neither side divides, twice, upright."""
THERMAL = [
    ThermalSpec(unit="counts16"),
    ThermalSpec(unit="counts16", polarity="black-hot", invalid=65535.0),
    ThermalSpec(unit="intensity8", min_span=4),
    ThermalSpec(unit="celsius"),
    ThermalSpec(unit="celsius", range=None, min_span=2.0, invalid=-300.0),
]
ABSENT = {"both": (1, 1), "no thermal": (1, 0), "no rgb": (0, 1)}


def build(task="detect", rgb=(48, 64), thermal=(30, 40), spec=THERMAL[0], sensors=("rgb", "thermal"), **blend):
    inputs = InputSpec(rgb_size=rgb, thermal_size=thermal, thermal=spec)
    config = ModelConfig(
        size=(64, 96),
        sensors=sensors,
        rgb=RgbEncoder(arch="test_resnet", weights=None),
        thermal=ThermalEncoder(arch="test_resnet"),
        blend=Blend(**blend),
        head=Head(kind=task, width=16),
        classes=CLASSES,
        inputs=inputs.model_dump(mode="json"),
    )
    model, _ = build_model(config, 0)
    with torch.no_grad():
        for parameter in model.blend.parameters():  # zero at the start, so that thermal would not matter
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    return model.eval()


def feeds_of(model, present=((1, 1),), seed=0):
    """Noise over a slope, with a band of invalid pixels; floats also hold NaN and infinity."""
    noise = np.random.default_rng(seed)
    inputs = InputSpec.model_validate(model.config.inputs)
    count, spec = len(present), inputs.thermal
    slope = np.linspace(0, 1, inputs.thermal_size[0])[:, None] + 0.3 * noise.random((count, *inputs.thermal_size))
    low, span = {"counts16": (21000, 900), "intensity8": (40, 60), "celsius": (-5, 30)}[spec.unit]
    thermal = (low + span * slope).astype(inputs.thermal.dtype)
    thermal[:, 2:9, :5] = spec.invalid
    if spec.unit == "celsius":
        thermal[:, 20, 3:6] = np.nan, np.inf, -np.inf
    return {
        "rgb": noise.integers(90, 170, (count, *inputs.rgb_size, 3), np.uint8),
        "thermal": thermal,
        "present": np.array(present, np.float32),
    }


def tensors(feeds):
    return [torch.from_numpy(feeds[name]) for name in ("rgb", "thermal", "present")]


@pytest.mark.parametrize("spec", THERMAL, ids=lambda spec: f"{spec.unit}-{spec.polarity}-{spec.range}")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_canvases_are_the_models(sizes, spec):
    model = build("classify", *sizes, spec)
    feeds = feeds_of(model, [(1, 1), (1, 1)])
    found = prepare(feeds, dense_spec(model))
    rgb, thermal, present = tensors(feeds)
    assert found["rgb"].dtype == found["thermal"].dtype == np.float32
    assert found["rgb"].std() > 0.05 and found["thermal"].std() > 0.3
    np.testing.assert_allclose(found["rgb"], model.rgb_canvas(rgb, present[:, 0]), rtol=0, atol=1e-5)
    expected = model.thermal_canvas(thermal, present[:, 1])
    np.testing.assert_allclose(found["thermal"], expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max()))


@pytest.mark.parametrize("fill", ["flat", "invalid", "hot pixel", "zero"])
@pytest.mark.parametrize("spec", THERMAL, ids=lambda spec: f"{spec.unit}-{spec.polarity}-{spec.range}")
def test_frames_without_a_picture_are_the_models_too(spec, fill):
    model = build("classify", spec=spec)
    feeds = feeds_of(model)
    feeds["thermal"][:] = {"flat": 25, "invalid": spec.invalid, "hot pixel": 25, "zero": 0}[fill]
    if fill == "hot pixel":
        feeds["thermal"][0, 7, 7] = 255
    found = prepare(feeds, dense_spec(model))["thermal"]
    expected = model.thermal_canvas(torch.from_numpy(feeds["thermal"]), torch.ones(1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_an_absent_sensors_buffer_may_hold_anything():
    model = build(spec=THERMAL[3])
    feeds = feeds_of(model, [(1, 0), (0, 1)])
    feeds["thermal"][0], feeds["rgb"][1] = np.nan, 77
    found = prepare(feeds, dense_spec(model))
    assert not found["thermal"][0].any() and not found["rgb"][1].any()
    assert found["rgb_present"].ravel().tolist() == [1, 0] and found["thermal_present"].ravel().tolist() == [0, 1]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_answers_of_random_maps_are_the_models(task, sizes):
    model = build(task, *sizes)
    spec = dense_spec(model)
    noise = np.random.default_rng(0)
    maps = {name: noise.normal(0, 3, (2, *shape[1:])).astype(np.float32) for name, shape in spec.outputs.items()}
    found, expected = decode(maps, spec), model.answer({name: torch.from_numpy(m) for name, m in maps.items()})
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.numpy().dtype and found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_few_peaks_leave_slots_empty():
    model = build()
    spec = dense_spec(model)
    heat = np.full(spec.outputs["heat"], -200.0, np.float32)  # a plateau of scores that are zero
    heat[0, 1, 3, 4], heat[0, 1, 9, 9], heat[0, 0, 9, 4] = 1.0, 3.0, 2.0
    maps = {"heat": heat, "box": np.full(spec.outputs["box"], 4.0, np.float32)}
    found = decode(maps, spec)["boxes"]
    expected = model.answer({name: torch.from_numpy(values) for name, values in maps.items()})["boxes"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == (1, 100, 6) and found[0, :4, 5].tolist() == [1, 0, 1, 0] and not found[0, 3:].any()


def test_equal_scores_come_in_the_order_of_their_places():
    spec = dense_spec(build())
    heat = np.full(spec.outputs["heat"], -200.0, np.float32)
    heat[0, 1, 3, 4] = heat[0, 1, 9, 9] = heat[0, 0, 9, 4] = 2.0
    found = decode({"heat": heat, "box": np.full(spec.outputs["box"], 4.0, np.float32)}, spec)["boxes"]
    assert found[0, :3, 5].tolist() == [0, 1, 1] and found[0, 1, 1] < found[0, 2, 1]


@pytest.mark.parametrize("present", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("task", TASKS)
def test_the_whole_dense_form_answers_as_the_full_one(task, present):
    agree(build(task), [present])


@pytest.mark.parametrize("present", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
@pytest.mark.parametrize("kind", [*BLENDS, "early"])
def test_every_blend_has_a_dense_form(kind, anchor, present):
    agree(build("segment", kind=kind, anchor=anchor), [present])


def test_what_is_prepared_before_a_blend_is_cut_again():
    agree(build("segment", kind="concat", norm="group", act="relu"), [(1, 0), (0, 1)])


@pytest.mark.parametrize("sensor", ["rgb", "thermal"])
def test_a_single_sensor_needs_no_flags(sensor):
    model = build("classify", sensors=(sensor,))
    assert list(dense_spec(model).inputs) == [sensor]
    agree(model, [(1, 1)])


def agree(model, present):
    network, spec = dense_model(model)

    def run(feeds):
        assert {name: array.shape for name, array in feeds.items()} == spec.inputs
        maps = network(*(torch.from_numpy(feeds[name]) for name in spec.inputs))
        return {name: found.numpy() for name, found in zip(spec.outputs, maps, strict=True)}

    feeds = feeds_of(model, present)
    with torch.no_grad():
        maps, expected = model.maps(*tensors(feeds)), model(*tensors(feeds))
        found = answer(lambda rows: row_by_row(run, rows), feeds, spec)
        mine = row_by_row(run, prepare(feeds, spec))
    assert list(mine) == list(maps) and found.keys() == expected.keys()
    for name, values in maps.items():
        np.testing.assert_allclose(mine[name], values, rtol=1e-4, atol=1e-4)
    for name in expected.keys() - {"boxes"}:  # scores of an untrained heat map are too alike for their order to hold
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_the_description_survives_json():
    spec = dense_spec(build("segment"))
    assert DenseSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_wrapped_model_is_refused_in_one_line():
    with pytest.raises(ExportError, match=r"a Sequential.*--bake-rig"):
        dense_model(torch.nn.Sequential(build()))
