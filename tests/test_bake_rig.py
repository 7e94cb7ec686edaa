"""A graph with the rig in it answers the camera's own frames as OpenCV's warp and the model before it would."""

import numpy as np
import pytest
import torch

from data.prepare import InputSpec, Preparer
from data.rig import Rig
from data.thermal import ThermalSpec
from export.baked_rig import BakedRig, bake_rig
from export.bundle_info import Inputs, ThermalInput
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.graph import export_graph

RGB, CAMERA = (96, 128), (60, 80)
HOMOGRAPHY = ((1.3, 0.02, 20.0), (-0.015, 1.25, 10.0), (1e-5, -2e-5, 1.0))
TURNS = [(0, "none"), (90, "horizontal"), (180, "vertical"), (270, "both")]
TOLERANCE = {"intensity8": 1, "counts16": 1, "celsius": 2e-3}
"""In the unit: float32 against OpenCV's own arithmetic, so that a value at .5 may be rounded either way."""


def frame(spec, seed=0):
    noise = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(CAMERA[0]) * 1.0, np.arange(CAMERA[1]) * 2.0)
    scale, base, spread = {"intensity8": (1, 0, 20), "counts16": (20, 20000, 100), "celsius": (0.1, 0, 1)}[spec.unit]
    image = (base + scale * ramp + noise.uniform(0, spread, CAMERA)).astype(spec.dtype)
    image[5:8, 7:9] = spec.invalid
    if spec.unit == "celsius":
        image[20, 20], image[30, 30] = np.nan, np.inf
    return image


def rig_of(turn, homography):
    return Rig(rgb_size=RGB, thermal_size=CAMERA, rotate=turn[0], flip=turn[1], homography=homography)


def crossed(spec):
    return ThermalInput.model_validate(spec.model_dump(mode="json"))


@pytest.mark.parametrize("homography", [None, HOMOGRAPHY], ids=["turned", "warped"])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("unit", ["intensity8", "counts16", "celsius"])
def test_warps_as_opencv_does(unit, marked, turn, homography):
    spec = ThermalSpec(unit=unit, marked=marked)
    aligner = rig_of(turn, homography).aligner(spec, RGB, CAMERA)
    image = frame(spec)
    expected = aligner(image).astype(np.float32)
    baked = BakedRig(torch.nn.Identity(), aligner.sampling_map(), CAMERA, crossed(spec))
    found = baked.warp(torch.from_numpy(image)[None])[0].numpy()
    invalid = expected == spec.invalid
    assert np.array_equal(found == spec.invalid, invalid)
    assert invalid.any() or (homography is None and not marked)
    assert np.abs(found - expected)[~invalid].max() <= TOLERANCE[unit]
    if unit != "celsius":
        assert (found != expected).mean() < 0.01


class Sum(torch.nn.Module):
    """Answers what it was given of thermal."""

    def forward(self, rgb, thermal, present):
        there = torch.where(present[:, 1, None, None] > 0.5, thermal.float(), 0.0)
        return {"boxes": there + 0 * rgb.float().mean()}


def test_graph_takes_the_cameras_own_frames():
    spec = ThermalSpec(unit="counts16")
    rig = rig_of((90, "none"), HOMOGRAPHY)
    inputs = InputSpec(rgb_size=RGB, thermal_size=(80, 60), thermal=spec)
    before = Inputs.model_validate(inputs.model_dump(mode="json"))
    model, after = bake_rig(Sum(), before, rig.aligner(spec, RGB, CAMERA).sampling_map(), CAMERA)
    assert (after.thermal_size, after.rig_baked, before.rig_baked) == (CAMERA, True, False)
    engine = OnnxRuntime(export_graph(model, after))
    assert engine.signature()["thermal"][1][1:] == CAMERA
    images = np.stack([frame(spec, seed) for seed in range(3)])
    feeds = {"rgb": np.zeros((3, *RGB, 3), np.uint8), "thermal": images, "present": np.ones((3, 2), np.float32)}
    feeds["present"][2, 1] = 0
    found = engine.run(feeds)["boxes"]
    prepare = Preparer(inputs, rig)
    for image, answer in zip(images[:2], found[:2], strict=True):
        expected = prepare(feeds["rgb"][0], image).thermal.astype(np.float32)
        assert np.array_equal(answer == spec.invalid, expected == spec.invalid)
        assert np.abs(answer - expected).max() <= 1
    assert not found[2].any()


def test_live_prepares_what_such_a_bundle_takes():
    """Without a rig the camera's own frame passes unchanged, whatever its turn."""
    spec = ThermalSpec(unit="counts16")
    inputs = InputSpec(rgb_size=RGB, thermal_size=CAMERA, thermal=spec, rig_baked=True)
    image = frame(spec)
    prepared = Preparer(inputs, Rig())(np.zeros((*RGB, 3), np.uint8), image).thermal
    assert np.array_equal(prepared, np.maximum(image, 1))


@pytest.mark.parametrize(
    ("change", "sampling", "reason"),
    [
        ({"letterbox": True, "rgb_size": (8, 8)}, np.zeros((8, 8, 2)), "a rig is baked for one size"),
        ({"rig_baked": True}, np.zeros((8, 8, 2)), "baked into this model already"),
        ({}, np.zeros((9, 8, 2)), r"frames of \[9, 8\] \(height, width\), but the model takes \[8, 8\]"),
        ({}, np.full((8, 8, 2), np.nan), "sees nothing of RGB's view"),
    ],
)
def test_what_cannot_be_baked_is_one_line(change, sampling, reason):
    inputs = InputSpec(rgb_size=RGB, thermal_size=(8, 8), thermal=ThermalSpec(unit="counts16"))
    before = Inputs.model_validate(inputs.model_dump(mode="json")).model_copy(update=change)
    with pytest.raises(ExportError, match=reason) as caught:
        bake_rig(Sum(), before, sampling.astype(np.float32), CAMERA)
    assert "\n" not in str(caught.value)


def test_a_rig_that_only_shifts_time_moves_nothing():
    assert not Rig(time_offset_ms=4).moves
    assert all(rig.moves for rig in (Rig(rotate=90), Rig(flip="both"), rig_of((0, "none"), HOMOGRAPHY)))
