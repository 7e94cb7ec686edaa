"""The graph is raw in, answer out, at a dynamic batch, and tells nothing about the machine that wrote it."""

import itertools
import json
import logging
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bundle_info import Inputs
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.graph import MAP_SIZES, OPSETS, export_graph, file_metadata, map_layout, set_map_size
from export.verify import compare
from fusion.blends import BLENDS
from fusion.model import Blend, FusionModel, RgbEncoder, ThermalEncoder
from fusion.model_config import Head
from fusion.normalise import Letterbox


def spec(unit="counts16", rgb=(32, 40), thermal=(16, 20)):
    delivered = InputSpec(rgb_size=rgb, thermal_size=thermal, thermal=ThermalSpec(unit=unit))
    return Inputs.model_validate(delivered.model_dump(mode="json"))


class Double(torch.nn.Module):
    """A model's signature with two answers whose names are not in alphabetical order."""

    def __init__(self):
        super().__init__()
        self.rgb, self.thermal = torch.nn.Conv2d(3, 2, 3, 2, 1), torch.nn.Conv2d(1, 2, 3, 2, 1)

    def forward(self, rgb, thermal, present):
        color = torch.where(present[:, 0, None, None, None] > 0, rgb.permute(0, 3, 1, 2).float() / 255, 0.0)
        warm = torch.where(present[:, 1, None, None, None] > 0, thermal.float()[:, None] / 65535, 0.0)
        warm = torch.nn.functional.interpolate(warm, size=color.shape[-2:], mode="bilinear", align_corners=False)
        heat = torch.sigmoid(self.rgb(color) + self.thermal(warm))
        return {"heat": heat, "best": heat.flatten(1).topk(5).values}


@pytest.mark.parametrize("unit", ["intensity8", "counts16", "celsius"])
def test_answers_as_pytorch_does(unit):
    torch.manual_seed(0)
    model, inputs = Double().eval(), spec(unit)
    engine = OnnxRuntime(export_graph(model, inputs))
    assert engine.outputs() == ["heat", "best"]
    noise = np.random.default_rng(0)
    for batch in (1, 2, 3):
        feeds = inputs.zeros(batch)
        feeds["rgb"] = noise.integers(0, 255, feeds["rgb"].shape, np.uint8)
        feeds["thermal"] = noise.integers(0, 200, feeds["thermal"].shape).astype(feeds["thermal"].dtype)
        feeds["present"][-1, 1] = 0
        found = engine.run(feeds)
        with torch.no_grad():
            expected = model(*(torch.from_numpy(array) for array in feeds.values()))
        for name in ("heat", "best"):
            np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-5)


def test_what_the_file_says(tiny_bundle):
    model = onnx.load(tiny_bundle / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "rgb": ["batch", 48, 64, 3],
        "thermal": ["batch", 30, 40],
        "present": ["batch", 2],
        "boxes": ["batch", 100, 6],
    }


def test_no_sort_and_no_loop(tiny_bundle):
    """Operators that engines refuse, or that cost as much as a small network."""
    operators = {node.op_type for node in onnx.load(tiny_bundle / "model.onnx").graph.node}
    assert "Conv" in operators
    assert not operators & {"NonMaxSuppression", "Loop", "If", "Scan", "NonZero", "Unique", "GridSample"}


def test_no_paths_of_this_machine(tiny_bundle):
    content = (tiny_bundle / "model.onnx").read_bytes()
    assert b"boxes" in content
    for trace in (str(Path(torch.__file__).parent).encode(), str(Path(__file__).parent.parent).encode(), b".py"):
        assert trace not in content


def test_export_says_nothing(capfd, caplog):
    with caplog.at_level(logging.WARNING):
        export_graph(Double().eval(), spec())
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Untraceable(torch.nn.Module):
    """What it does depends on the pixels."""

    def forward(self, rgb, thermal, present):
        level = rgb.float().mean()
        return {"boxes": level.expand(2) if level.item() > 100 else thermal.float()}


def test_model_that_cannot_become_a_graph():
    with pytest.raises(ExportError, match="cannot turn this model into a graph") as caught:
        export_graph(Untraceable(), spec())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sensor", ["rgb", "thermal"])
def test_single_sensor_baseline(tiny_model, golden_pairs, sensor):
    config = tiny_model.config.model_copy(update={"sensors": (sensor,)})
    torch.manual_seed(0)
    model = FusionModel(config).eval()
    engine = OnnxRuntime(export_graph(model, Inputs.model_validate(config.inputs)))
    feeds = {**golden_pairs, "present": np.ones((3, 2), np.float32)}
    with torch.no_grad():
        expected = model(*(torch.from_numpy(array) for array in feeds.values()))["boxes"].numpy()
    assert compare({"boxes": expected}, engine.run(feeds)).holds


class SmallNet(torch.nn.Module):
    """An encoder of four convolutions: a graph of a timm network takes several seconds to write."""

    strides, feature_modules = (4, 8, 16, 32), ("layers.0", "layers.1", "layers.2", "layers.3")

    def __init__(self, in_chans):
        super().__init__()
        self.channels = (8, 12, 16, 20) if in_chans == 1 else (16, 16, 24, 24)
        sides = (in_chans, *self.channels)
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(sides[i], sides[i + 1], 5, 2 if i else 4, 2) for i in range(4)
        )

    def forward(self, x):
        return list(itertools.accumulate(self.layers, lambda y, layer: torch.relu(layer(y)), initial=x))[1:]


class Maps(torch.nn.Module):
    """A model up to its head's maps: which of two nearly equal peaks comes first is no matter of 1e-5."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, rgb, thermal, present):
        return self.model.maps(rgb, thermal, present)


@pytest.mark.parametrize("kind", [*BLENDS, "early"])
def test_every_blend_answers_as_pytorch_does(tiny_model, golden_pairs, kind, monkeypatch):
    """With both sensors, and with either or both absent."""
    module = types.ModuleType("small_networks")
    module.make = SmallNet
    monkeypatch.setitem(sys.modules, "small_networks", module)
    encoders = {
        "rgb": RgbEncoder(arch="module:small_networks:make", weights=None),
        "thermal": ThermalEncoder(arch="module:small_networks:make"),
    }
    blend = Blend(kind=kind, norm="group", act="silu") if kind == "gated" else Blend(kind=kind)
    config = tiny_model.config.model_copy(update={"blend": blend, **encoders})
    torch.manual_seed(0)
    model = FusionModel(config).eval()
    with torch.no_grad():
        for parameter in model.blend.parameters():  # so that the other sensor matters
            parameter += 0.1 * torch.randn_like(parameter)
    engine = OnnxRuntime(export_graph(Maps(model), Inputs.model_validate(config.inputs)))
    heats = []
    for present in ([1, 1], [1, 0], [0, 1], [0, 0]):
        feeds = {**golden_pairs, "present": np.array([present] * 3, np.float32)}
        found = engine.run(feeds)
        with torch.no_grad():
            expected = model.maps(*(torch.from_numpy(array) for array in feeds.values()))
        for name in ("heat", "box"):
            np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=1e-5, atol=1e-5)
        heats.append(found["heat"])
    for i, j in itertools.combinations(range(4), 2):
        assert np.abs(heats[i] - heats[j]).max() > 1e-3


@pytest.mark.parametrize("opset", [OPSETS[0], 20, OPSETS[-1]])
def test_opset_is_the_one_asked_for(opset):
    content = export_graph(Double().eval(), spec(), opset)
    assert [entry.version for entry in onnx.load_from_string(content).opset_import if entry.domain == ""] == [opset]
    assert set(OnnxRuntime(content).run(spec().zeros(1))) == {"heat", "best"}


@pytest.mark.parametrize("opset", [0, 17, 24, 99])
def test_opset_out_of_range_is_one_line(opset):
    with pytest.raises(ExportError, match=rf"opset {opset}: expected 18 to 23; leave --opset out for 18"):
        export_graph(Double(), spec(), opset)


def test_file_says_what_it_is():
    inputs = spec("celsius")
    told = file_metadata("segment", ("person", "Fußgänger"), ("rgb", "thermal"), inputs)
    proto = onnx.load_from_string(export_graph(Double().eval(), inputs, metadata=told))
    assert {entry.key: json.loads(entry.value) for entry in proto.metadata_props} == told
    assert told["thermal"]["unit"] == "celsius"
    assert told["thermal"]["range"] == [-20, 60]
    assert (told["rig_baked"], told["classes"][1]) == (False, "Fußgänger")
    assert proto.producer_name == "rgbt-fusion"
    assert proto.producer_version == told["version"]


@pytest.fixture
def segmenter(tiny_model, monkeypatch):
    """A model of class maps on a canvas into which the RGB frame fits only with padding."""
    module = types.ModuleType("small_networks")
    module.make = SmallNet
    monkeypatch.setitem(sys.modules, "small_networks", module)
    encoder = "module:small_networks:make"
    config = tiny_model.config.model_copy(
        update={
            "rgb": RgbEncoder(arch=encoder, weights=None),
            "thermal": ThermalEncoder(arch=encoder),
            "head": Head(kind="segment"),
        }
    )
    torch.manual_seed(0)
    return FusionModel(config).eval()


def test_map_at_the_networks_resolution(segmenter, golden_pairs):
    feeds = {**golden_pairs, "present": np.ones((3, 2), np.float32)}
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    with torch.no_grad():
        scores = segmenter.maps(*tensors)["scores"]
        whole = segmenter(*tensors)
    set_map_size(segmenter, "network")
    with torch.no_grad():
        small = segmenter(*tensors)
    assert (whole["class_map"].shape, small["class_map"].shape) == ((3, 48, 64), (3, 16, 22))
    # The frame covers 64 × 85 of a canvas of 64 × 96: no whole number of cells, so the map is scaled from the canvas.
    assert segmenter.letterbox.content == (64, 85)
    agree = scores.argmax(1)[:, :, :21] == small["class_map"][:, :, :21]
    assert agree.float().mean() > 0.8
    found = OnnxRuntime(export_graph(segmenter, Inputs.model_validate(segmenter.config.inputs))).run(feeds)
    assert compare({name: value.numpy() for name, value in small.items()}, found).holds
    set_map_size(segmenter, "camera")
    with torch.no_grad():
        assert torch.equal(segmenter(*tensors)["class_map"], whole["class_map"])


def test_map_of_whole_cells_is_the_networks_own_scores():
    frame = Letterbox((480, 640), (240, 320))
    frame.answer_size = frame.content_at(4)
    scores = torch.randn(1, 3, 60, 80)
    assert torch.equal(frame.undo(scores), scores)


def test_map_size_that_does_not_fit_is_one_line(tiny_model, segmenter):
    with pytest.raises(ExportError, match="this model answers none; leave it out"):
        set_map_size(tiny_model, "network")
    with pytest.raises(ExportError, match="map size 'half': expected camera or network"):
        set_map_size(segmenter, "half")
    layouts = [map_layout(size)["class_map"] for size in MAP_SIZES]
    assert "network's resolution" in layouts[1] and "network" not in layouts[0]
