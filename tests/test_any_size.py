"""A graph of any size answers on ONNX Runtime as PyTorch does, at sizes that it was not exported at."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export.any_size import any_size
from export.bundle import read_bundle, write_info
from export.bundle_info import Inputs
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.graph import export_graph, set_map_size
from export.verify import compare
from export.write import ANY_SIZE, Forms, export_bundle
from fusion.model import FusionModel
from fusion.model_config import Head

DEPLOY = Path(__file__).parents[1] / "deploy"
SIZES = [((48, 64), (30, 40)), ((100, 50), (33, 47)), ((64, 160), (64, 160))]


def feeds_of(rgb, thermal, seed=0):
    noise = np.random.default_rng(seed)
    return {
        "rgb": noise.integers(0, 255, (2, *rgb, 3), np.uint8),
        "thermal": noise.integers(21000, 23000, (2, *thermal)).astype(np.uint16),
        "present": np.array([[1, 1], [1, 0]], np.float32),
    }


def asked(model, feeds):
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(*map(torch.from_numpy, feeds.values())).items()}


def with_head(model, kind):
    torch.manual_seed(0)
    return FusionModel(model.config.model_copy(update={"head": Head(kind=kind)})).eval()


@pytest.mark.parametrize("kind", ["detect", "segment"])
def test_answers_at_other_sizes(tiny_model, kind):
    model = tiny_model if kind == "detect" else with_head(tiny_model, kind)
    inputs = Inputs.model_validate(model.config.inputs)
    free = any_size(model, inputs)
    engine = OnnxRuntime(export_graph(free, inputs, any_size=True))
    assert [isinstance(side, str) for side in engine.signature()["rgb"][1]] == [True, True, True, False]
    for rgb, thermal in SIZES:
        feeds = feeds_of(rgb, thermal)
        found, expected = engine.run(feeds), asked(free, feeds)
        assert compare(expected, found).holds
        if kind == "segment":
            assert found["class_map"].shape == (2, *rgb)
    own = feeds_of(*SIZES[0])  # the size that the model itself is for
    assert compare(asked(model, own), asked(free, own)).holds


def test_a_bundle_gets_it_only_where_it_answers_as_pytorch(tiny_model, golden_pairs, tmp_path, monkeypatch):
    def export():
        config, forms = tiny_model.config, Forms(any_size=True)
        return export_bundle(
            tiny_model, config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64, tmp_path / "bundle",
            forms=forms,
        )  # fmt: skip

    def of_another_model(model, inputs):
        return any_size(with_head(model, "detect"), inputs)

    with monkeypatch.context() as patch:
        patch.setattr("export.write.any_size", of_another_model)
        with pytest.raises(ExportError, match=r"model\.any-size\.onnx answers otherwise than PyTorch"):
            export()
        assert not list(tmp_path.iterdir())
    made = export()
    assert (made.path / ANY_SIZE).is_file() and ANY_SIZE in made.info.files


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tiny_model, tmp_path_factory):
    """The tiny bundle with the graph of any size beside its own."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("any") / "bundle")
    inputs = Inputs.model_validate(tiny_model.config.inputs)
    (path / ANY_SIZE).write_bytes(export_graph(any_size(tiny_model, inputs), inputs, any_size=True))
    fields = json.loads((path / "bundle.json").read_text())
    write_info(path, {name: value for name, value in fields.items() if name != "files"})
    return path


@pytest.fixture
def documented(monkeypatch):
    """Runs what deploy/README.md shows of it: the bundle and a pair → the answer."""
    monkeypatch.syspath_prepend(str(DEPLOY / "clients"))
    blocks = re.findall(r"```python\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if ANY_SIZE in block]

    def run(bundle, rgb, thermal):
        names = {"bundle": bundle, "rgb": rgb, "thermal": thermal}
        exec(code, names)
        return names["answer"]

    return run


def test_a_client_uses_it_as_documented(bundle, documented):
    golden = read_bundle(bundle).golden()
    answer = documented(bundle, golden["rgb"][0], golden["thermal"][0])
    assert compare({"boxes": golden["boxes"][:1]}, answer).holds
    larger = feeds_of((480, 640), (120, 160))
    boxes = documented(bundle, larger["rgb"][0], larger["thermal"][0])["boxes"][0]
    assert boxes.shape == (100, 6) and boxes[:, :4].max() > 320  # in pixels of the frame, not of the canvas


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "was changed"), (Path.unlink, "is missing")],
)
def test_its_hash_is_checked_with_the_others(bundle, tmp_path, documented, spoil, says):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    spoil(copy / ANY_SIZE)
    with pytest.raises(ExportError, match=rf"model\.any-size\.onnx: {says}"):
        read_bundle(copy)
    with pytest.raises(SystemExit, match=r"model\.any-size\.onnx: "):
        documented(copy, None, None)


def test_what_is_of_one_size_is_refused(tiny_model):
    inputs = Inputs.model_validate(tiny_model.config.inputs)
    with pytest.raises(ExportError, match="a baked rig is of one size"):
        any_size(tiny_model, inputs.model_copy(update={"rig_baked": True}))
    model = with_head(tiny_model, "segment")
    set_map_size(model, "network")
    with pytest.raises(ExportError, match="the map is at camera size then; leave out --map-size"):
        any_size(model, inputs)
