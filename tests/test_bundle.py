"""The bundle on disk: refused as soon as anything in it is not as exported, and never half-written."""

import json
import resource
import shutil

import numpy as np
import pytest
import torch

from data.prepare import InputSpec
from data.thermal import Planck, ThermalSpec
from export.bundle import read_bundle, write_info
from export.bundle_info import Inputs
from export.errors import ExportError
from export.verify import Parity
from export.write import export_bundle
from pipelines.cli import main

FILES = ("model.onnx", "bundle.json", "golden.npz")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def refusal(path):
    with pytest.raises(ExportError) as caught:
        read_bundle(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rewrite(path, **changes):
    """Change fields of bundle.json and make its hashes right again."""
    fields = json.loads((path / "bundle.json").read_text())
    fields.pop("files")
    write_info(path, fields | changes)


def fields_of(schema):
    """Field names of a pydantic model, nested ones included."""
    groups = [schema, *schema.get("$defs", {}).values()]
    return sorted(name for group in groups for name in group.get("properties", {}))


@pytest.mark.parametrize(
    "spec",
    [
        ThermalSpec(unit="intensity8", polarity="black-hot", marked=True),
        ThermalSpec(unit="celsius"),
        ThermalSpec(
            unit="counts16", range=(20000, 30000), planck=Planck(r1=16e3, r2=0.01, b=1400, f=1, o=-7000, emissivity=0.9)
        ),
    ],
)
def test_inputs_cross_the_rooms_unchanged(spec):
    delivered = InputSpec(rgb_size=(64, 96), thermal_size=(64, 96), letterbox=True, thermal=spec)
    crossed = Inputs.model_validate(delivered.model_dump(mode="json"))
    assert crossed.model_dump_json() == delivered.model_dump_json()
    assert InputSpec.model_validate_json(crossed.model_dump_json()) == delivered
    assert crossed.thermal.dtype == spec.dtype


def test_both_rooms_have_the_same_fields():
    assert fields_of(Inputs.model_json_schema()) == fields_of(InputSpec.model_json_schema())


def test_description(tiny_bundle, tiny_model):
    info = read_bundle(tiny_bundle).info
    assert (info.task, info.classes, info.opset) == ("detect", ("person", "car"), 18)
    assert info.outputs["boxes"].shape == ("B", 100, 6)
    assert info.inputs.model_dump(mode="json") == tiny_model.config.inputs
    assert sorted(info.files) == sorted(FILES)
    assert info.parity["onnxruntime-cpu"]["scores_max_abs"] <= 1e-4
    assert info.created_with["torch"] == torch.__version__.partition("+")[0]


def test_golden_pairs_hold_a_missing_sensor_too(tiny_bundle, golden_pairs):
    golden = read_bundle(tiny_bundle).golden()
    assert golden["present"].tolist() == [[1, 1]] * 3 + [[1, 0], [0, 1]]
    assert (golden["rgb"][:3] == golden_pairs["rgb"]).all()
    assert not np.allclose(golden["boxes"][0], golden["boxes"][3])
    assert not np.allclose(golden["boxes"][0], golden["boxes"][4])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_changed_byte(bundle, name, place):
    content = bytearray((bundle / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (bundle / name).write_bytes(content)
    assert name in refusal(bundle)


def test_blank_added_to_the_description(bundle):
    (bundle / "bundle.json").write_text((bundle / "bundle.json").read_text().replace('"person"', ' "person"'))
    assert "was changed after export" in refusal(bundle)


@pytest.mark.parametrize("name", FILES)
def test_truncated_or_missing_file(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: len(content) // 2])
    assert name in refusal(bundle)
    (bundle / name).unlink()
    assert name in refusal(bundle)


def test_no_bundle_there(tmp_path):
    assert "no bundle here" in refusal(tmp_path / "nowhere")


def test_newer_schema(bundle):
    content = json.loads((bundle / "bundle.json").read_text()) | {"schema_version": 3, "novelty": {}}
    (bundle / "bundle.json").write_text(json.dumps(content))
    assert "newer than 2" in refusal(bundle)
    assert "pip install --upgrade" in refusal(bundle)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"novelty": 1}, "novelty"), ({"classes": "person"}, "classes"), ({"schema_version": "1"}, "schema_version")],
)
def test_wrong_field(bundle, change, field):
    content = json.loads((bundle / "bundle.json").read_text()) | change
    (bundle / "bundle.json").write_text(json.dumps(content))
    assert field in refusal(bundle)


def test_hash_of_a_file_is_not_listed(bundle):
    content = json.loads((bundle / "bundle.json").read_text())
    del content["files"]["golden.npz"]
    (bundle / "bundle.json").write_text(json.dumps(content))
    assert "no sha256 of golden.npz" in refusal(bundle)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "arrays",
    [
        {"boxes": np.array([Bomb()], dtype=object)},
        {"boxes": np.zeros((2, 100, 6), np.float32)},
        {"present": np.zeros((0, 2), np.float32)},
    ],
)
def test_golden_file_that_does_not_fit(bundle, arrays):
    with np.load(bundle / "golden.npz") as archive:
        golden = dict(archive)
    np.savez(bundle / "golden.npz", **golden | arrays)
    rewrite(bundle)
    with pytest.raises(ExportError, match=r"golden\.npz"):
        read_bundle(bundle).golden()


def test_golden_file_that_is_no_archive(bundle):
    (bundle / "golden.npz").write_bytes(b"PK\x03\x04 but not really")
    rewrite(bundle)
    with pytest.raises(ExportError, match=r"golden\.npz"):
        read_bundle(bundle).golden()


class Liar(torch.nn.Module):
    """Answers otherwise once it is a graph."""

    def __init__(self, lie):
        super().__init__()
        self.lie = lie

    def forward(self, rgb, thermal, present):
        shift = self.lie if torch.compiler.is_exporting() else 0.0
        level = rgb.float().mean((1, 2, 3)) + thermal.float().mean((1, 2)) + present.sum(1)
        score = torch.full_like(level, 0.5)
        row = torch.stack([level, level, level + 9 + shift, level + 9, score, torch.zeros_like(level)], 1)
        return {"boxes": torch.stack([row, torch.zeros_like(row)], 1)}


def tree(path):
    return {entry.relative_to(path): entry.read_bytes() for entry in sorted(path.rglob("*")) if entry.is_file()}


def export(model, inputs, golden, out):
    return export_bundle(model, inputs, ["person", "car"], ["rgb", "thermal"], golden, {}, "b" * 64, out)


def test_export_that_answers_otherwise_leaves_the_old_bundle(bundle, tmp_path, tiny_model, golden_pairs):
    before = tree(tmp_path)
    with pytest.raises(ExportError, match="otherwise than PyTorch"):
        export(Liar(0.5), tiny_model.config.inputs, golden_pairs, bundle)
    assert tree(tmp_path) == before
    export(Liar(0.0), tiny_model.config.inputs, golden_pairs, bundle)
    assert tree(tmp_path) != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["rgb", "thermal"])
def test_golden_pairs_of_another_size(tiny_model, golden_pairs, tmp_path, name):
    for wrong in (golden_pairs[name][:, ::2], golden_pairs[name].astype(np.float64), golden_pairs[name][:0]):
        with pytest.raises(ExportError, match=f"golden {name} is"):
            export(tiny_model, tiny_model.config.inputs, golden_pairs | {name: wrong}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_old_bundle(bundle, tmp_path, tiny_model, golden_pairs):
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            export(Liar(0.0), tiny_model.config.inputs, golden_pairs, bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == before


def test_folder_of_somebody_else_is_not_replaced(tmp_path, tiny_model, golden_pairs):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="not replaced"):
        export(Liar(0.0), tiny_model.config.inputs, golden_pairs, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_the_model_stays_as_it_was(tiny_bundle, tiny_model):
    assert not any(hasattr(parameter, "grad_fn") and parameter.grad_fn for parameter in tiny_model.parameters())
    assert next(tiny_model.parameters()).requires_grad


def test_verify_command(bundle, capfd):
    assert main(["verify", str(bundle), "--threads", "1"]) == 0
    assert "5 golden pairs" in capfd.readouterr().out
    assert main(["verify", str(bundle), "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["holds"] is True
    assert answer["rows"][0]["target"] == "onnxruntime-cpu"
    (row,) = answer["rows"]
    assert Parity(row["pairs"], {name: row[name] for name in row["limits"]}, row["limits"]).holds


def test_verify_command_on_a_changed_byte(bundle, capfd):
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    assert main(["verify", str(bundle)]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("rgbt: error:")
    assert said.err.count("\n") == 1


def test_verify_command_beyond_the_limits(bundle, capfd):
    with np.load(bundle / "golden.npz") as archive:
        golden = dict(archive)
    golden["boxes"][:, :, 4] *= 0.99
    np.savez(bundle / "golden.npz", **golden)
    rewrite(bundle)
    assert main(["verify", str(bundle)]) == 1
    assert "otherwise than PyTorch" in capfd.readouterr().err
