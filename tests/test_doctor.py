"""The doctor tells a healthy machine from a sick one, and says what to type."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from pipelines import doctor
from pipelines.cli import main


def test_this_machine_runs_bundles(capsys):
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["edge_runtime"] is True
    by_name = {finding["name"]: finding for finding in answer["findings"]}
    assert by_name["onnxruntime cpu"]["found"] == "runs"
    assert "numpy" in by_name["packages"]["found"]
    assert "ffv1" in by_name["video"]["found"]


def test_what_is_wrong_comes_with_what_to_type():
    for finding in doctor.examine():
        assert finding.level == "ok" or finding.advice


def test_text(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "onnxruntime cpu" in said
    assert said.endswith("bundles run here\n")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages, and no others, have these versions."""

    def pretend(**versions):
        versions = {name.replace("_", "-"): number for name, number in versions.items()}

        def version(name):
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(doctor, "version", version)

    return pretend


def found(check, name):
    return next(finding for finding in check() if finding.name == name)


def test_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "gpu" not in [finding.name for finding in doctor._gpu()]
    tool.write_text("#!/bin/sh\necho 'NVIDIA Imaginary, 999.1, 8192 MiB'\n")
    tool.chmod(0o755)
    assert found(doctor._gpu, "gpu").found == "NVIDIA Imaginary, 999.1, 8192 MiB"
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert found(doctor._gpu, "gpu").level == "note"
    assert "no driver" in found(doctor._gpu, "gpu").found


def test_a_gpu_that_does_not_answer_is_a_note(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_PATIENCE_S", 0.1)
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    tool.chmod(0o755)
    finding = found(doctor._gpu, "gpu")
    assert (finding.level, finding.found) == ("note", "nvidia-smi does not answer within 0.1 s")
    assert "driver" in finding.advice
    tool.write_text("#!/no/such/interpreter\n")
    assert found(doctor._gpu, "gpu").found == "nvidia-smi cannot be started: No such file or directory"


def test_two_onnx_runtimes(installed):
    installed(onnxruntime="1.22.0", onnxruntime_gpu="1.22.0")
    finding = found(doctor._one_runtime, "onnx runtimes")
    assert finding.level == "problem"
    assert finding.advice == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert not doctor.works([finding])
    installed(onnxruntime_gpu="1.22.0")
    assert not list(doctor._one_runtime())


def test_opencv_twins_that_differ(installed):
    installed(opencv_python="4.10.0.84", opencv_python_headless="5.0.0.93")
    finding = found(doctor._opencv, "opencv twins")
    assert finding.level == "problem"
    assert "opencv-python==5.0.0.93 opencv-python-headless==5.0.0.93" in finding.advice
    installed(opencv_python="5.0.0.93", opencv_python_headless="5.0.0.93")
    assert [finding.name for finding in doctor._opencv()] == ["cv2"]


def test_missing_and_old_packages(installed):
    installed(numpy="1.20.0", av="15.0.0")
    findings = {finding.name: finding for finding in doctor._packages()}
    assert findings["numpy"].level == "problem"
    assert findings["numpy"].advice.startswith("pip install 'numpy")
    assert findings["pydantic"].found.startswith("missing")
    assert findings["packages"].found == "av 15.0.0"
    assert findings["training"].level == "note"


def test_pair_of_torch_and_torchvision(installed, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy", "torch (==2.12.1)"])
    installed(torch="2.12.1+cpu", torchvision="0.27.1")
    assert not list(doctor._torchvision_fits())
    installed(torch="2.11.0", torchvision="0.27.1")
    finding = found(doctor._torchvision_fits, "torch pair")
    assert finding.level == "note"
    assert "needs torch ==2.12.1, found 2.11.0" in finding.found
