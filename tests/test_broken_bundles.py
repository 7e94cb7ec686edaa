"""What a user may get wrong with a bundle, or find broken in it: one clear line each, and nothing lost."""

import contextlib
import errno
import json
import shutil

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.errors import DataError
from data.synthetic.dataset import write_dataset
from data.thermal import ThermalSpec
from export.bundle import read_bundle, write_info
from export.bundle_info import Variant
from export.dense_spec import DenseSpec, DenseThermal
from export.errors import ExportError
from export.session import Session
from export.write import export_bundle
from fusion.folder import atomic_folder
from pipelines.cli import _os_error, main
from pipelines.engine_check import NCNN_PARAM, NCNN_WEIGHTS, TINY_LITERT
from pipelines.subject import open_subject

PARTS = {"nothing": 0.0, "a few bytes": 0.01, "half": 0.5, "all but the end": 0.97}
PACKAGES = {"openvino": "openvino", "ncnn": "ncnn", "litert": "ai_edge_litert"}
DENSE = DenseSpec(
    task="classify", rgb_size=(48, 64), answer_size=(48, 64), canvas=(64, 96), content=(64, 85), mean=(0, 0, 0),
    std=(1, 1, 1), stride=8, slots=100, inputs={"rgb": (1, 3, 64, 96)}, outputs={"scores": (1, 2)},
    thermal=DenseThermal(
        unit="counts16", polarity="white-hot", range=None, min_span=100, invalid=0, block=16
    ),
)  # fmt: skip


def refusal(call):
    with pytest.raises(ExportError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def sealed(tiny_bundle, tmp_path):
    """Makes a bundle whose hashes hold, with these files and variants in it."""

    def build(files, variants, **fields):
        path = shutil.copytree(tiny_bundle, tmp_path / "bundle", dirs_exist_ok=True)
        for name, content in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(content)
        described = json.loads((path / "bundle.json").read_text())
        described.pop("files")
        made = {v.key: v.model_dump() for v in variants}
        write_info(path, {**described, "variants": described["variants"] | made, **fields})
        return read_bundle(path)

    return build


@pytest.fixture
def networks(tiny_bundle):
    """Engine → its whole files, the one to be damaged last, and the variant."""
    graph = (tiny_bundle / "model.onnx").read_bytes()
    litert, ncnn = "litert/model.tflite", ("ncnn/model.param", "ncnn/model.bin")
    return {
        "onnxruntime": ({"other.onnx": graph}, Variant(engine="onnxruntime", precision="int8", files=("other.onnx",))),
        "openvino": ({"other.onnx": graph}, Variant(engine="openvino", precision="fp32", files=("other.onnx",))),
        "ncnn": (
            {ncnn[0]: NCNN_PARAM.encode(), ncnn[1]: NCNN_WEIGHTS},
            Variant(engine="ncnn", precision="fp32", form="dense", files=ncnn),
        ),
        "litert": ({litert: TINY_LITERT}, Variant(engine="litert", precision="fp32", form="dense", files=(litert,))),
    }


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "ncnn", "litert"])
@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_model_is_one_line(engine, part, networks, sealed, capfd):
    """The hashes hold: somebody sealed it so, or the engine cannot read what another version of it can."""
    if engine in PACKAGES:
        pytest.importorskip(PACKAGES[engine], reason=f"{engine} is not installed")
    files, variant = networks[engine]
    name, content = list(files.items())[-1]
    bundle = sealed(files | {name: content[: int(PARTS[part] * len(content))]}, [variant])
    line = refusal(lambda: Session(bundle, engine, precision=variant.precision))
    assert str(bundle.path) in line and "export the bundle again" in line
    assert capfd.readouterr() == ("", ""), "the library's own lines"


@pytest.mark.parametrize("part", ["a few bytes", "half"])
def test_a_truncated_description_of_ncnn_is_one_line(part, networks, sealed, capfd):
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    files, variant = networks["ncnn"]
    name, content = next(iter(files.items()))
    bundle = sealed(files | {name: content[: int(PARTS[part] * len(content))]}, [variant])
    assert name in refusal(lambda: Session(bundle, "ncnn"))
    assert capfd.readouterr() == ("", "")


def test_what_ncnn_says_is_in_the_line(networks, sealed):
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    files, variant = networks["ncnn"]
    bundle = sealed(files | {variant.files[0]: NCNN_PARAM.replace("ReLU", "Novelty").encode()}, [variant])
    assert "(layer Novelty not exists or registered); install a newer ncnn" in refusal(lambda: Session(bundle, "ncnn"))


def test_a_dense_network_that_the_description_does_not_fit(networks, sealed):
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    files, variant = networks["ncnn"]
    assert "bundle.json lacks 'dense'" in refusal(lambda: Session(sealed(files, [variant]), "ncnn"))
    line = refusal(lambda: Session(sealed(files, [variant], dense=DENSE), "ncnn"))
    assert "answers ['y'], but bundle.json says {'rgb': ('float32', (3, 64, 96))} and ['scores']" in line


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "ncnn", "litert"])
def test_one_changed_byte_is_found_before_any_engine_sees_it(engine, networks, sealed):
    files, variant = networks[engine]
    path = sealed(files, [variant]).path
    changed = path / variant.files[-1]
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    assert f"{changed}: was changed after export" in refusal(lambda: read_bundle(path))


@pytest.mark.parametrize(
    ("engine", "provider", "says"),
    [
        ("openvino", "cuda", "unknown provider 'cuda' of OpenVINO; one of cpu, gpu, npu"),
        ("openvino", "npu", "finds no device 'npu' here"),
        ("ncnn", "cuda", "NCNN runs on cpu here, not on 'cuda'"),
        ("litert", "gpu", "LiteRT runs on cpu here, not on 'gpu'"),
        ("onnxruntime", "npu", "unknown provider 'npu'; one of cpu, cuda, tensorrt"),
    ],
)
def test_a_provider_that_does_not_load(engine, provider, says, networks, sealed):
    if engine in PACKAGES:
        pytest.importorskip(PACKAGES[engine], reason=f"{engine} is not installed")
    files, variant = networks[engine]
    bundle = sealed(files, [variant])
    assert says in refusal(lambda: Session(bundle, engine, provider, precision=variant.precision))


@pytest.mark.parametrize("command", ["verify", "bench", "live", "evaluate"])
def test_every_command_refuses_a_newer_schema(command, tiny_bundle, tmp_path, synthetic_card, synthetic_video, capfd):
    path = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    newer = json.loads((path / "bundle.json").read_text()) | {"schema_version": 3, "variants": ["of another kind"]}
    (path / "bundle.json").write_text(json.dumps(newer))
    more = {"live": ["--rgb", str(synthetic_video / "rgb.mp4")], "evaluate": ["--data", str(synthetic_card)]}
    assert main([command, str(path), *more.get(command, [])]) == 1
    error = capfd.readouterr().err
    assert "schema version 3 is newer than 2" in error and "pip install --upgrade rgbt-fusion" in error
    assert error.count("\n") == 1


def pictures(folder, shape, dtype):
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), np.full(shape, 22_000 if dtype == np.uint16 else 90, dtype))
    return str(folder)


@pytest.mark.parametrize(
    ("sensor", "shape", "dtype", "says"),
    [
        ("rgb", (50, 64, 3), np.uint8, "RGB frame is 64×50 (width×height), expected 64×48"),
        ("rgb", (48, 64, 3), np.uint16, "RGB is uint16, expected 8 bits per channel"),
        ("thermal", (30, 41), np.uint16, "thermal frame is 41×30 (width×height, upright), expected 40×30"),
        ("thermal", (30, 40), np.uint8, "uint8"),
    ],
)
def test_frames_of_another_camera_in_live(tiny_bundle, tmp_path, capfd, sensor, shape, dtype, says):
    folder = pictures(tmp_path / "camera", shape, dtype)
    assert main(["live", str(tiny_bundle), f"--{sensor}", folder, "--jsonl", str(tmp_path / "out.jsonl")]) == 1
    error = capfd.readouterr().err
    assert says in error and str(tmp_path / "camera") in error and error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_thermal_video_of_another_unit_in_live(tiny_bundle, synthetic_video, capfd):
    assert main(["live", str(tiny_bundle), "--thermal", str(synthetic_video / "rgb.mp4")]) == 1
    error = capfd.readouterr().err
    assert "but the bundle takes unit 'counts16'" in error and error.count("\n") == 1


@pytest.mark.parametrize("unit", ["celsius", "intensity8"])
def test_a_card_of_another_unit_in_evaluate(tiny_bundle, tmp_path, unit):
    path = write_dataset(tmp_path / "pairs", {"train": 1, "val": 1}, 0, (48, 64), (30, 40))
    changes = {"classes": ("person", "car"), "thermal_spec": ThermalSpec(unit=unit)}
    card = DatasetCard.load(path).model_copy(update=changes).at(path)
    with pytest.raises(DataError) as caught:
        open_subject(tiny_bundle).require_fits(card)
    line = str(caught.value)
    assert f"thermal_spec.unit is {unit}" in line and "takes counts16" in line and "\n" not in line


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "bundle.json"])
def test_no_space_left_on_export(name, tiny_bundle, tiny_model, golden_pairs, tmp_path, monkeypatch):
    """The disk is full from that file on: its name leads to a device that takes nothing."""
    out = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = {entry.name: entry.read_bytes() for entry in out.iterdir()}

    @contextlib.contextmanager
    def full(path, marker=None):
        with atomic_folder(path, marker) as folder:
            (folder / name).symlink_to("/dev/full")
            yield folder

    monkeypatch.setattr("export.write.atomic_folder", full)
    config = tiny_model.config
    with pytest.raises(OSError) as caught:
        export_bundle(tiny_model, config.inputs, config.classes, config.sensors, golden_pairs, {}, "b" * 64, out)
    assert caught.value.errno == errno.ENOSPC
    assert "no space left on the disk" in _os_error(caught.value)
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
