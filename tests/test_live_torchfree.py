"""What runs on an edge device runs without torch, and answers as evaluate does."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from data.card import DatasetCard
from data.pairs import load_pair
from data.prepare import Preparer
from data.synthetic.dataset import write_dataset
from export.bundle import read_bundle
from export.session import Session

BLOCK = """
    import sys

    class Torchless:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {"torch", "torchvision", "lightning", "timm", "albumentations", "onnx"}:
                raise ImportError(f"{name} is not installed on this device")

    sys.meta_path.insert(0, Torchless())
"""


def run(script, *arguments):
    """Run a script in a process that cannot import torch; it must not even be loaded otherwise."""
    ending = "\nassert not [name for name in sys.modules if name.partition('.')[0] == 'torch']\n"
    code = textwrap.dedent(BLOCK) + textwrap.dedent(script) + ending
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blockade_holds():
    assert run("""
        try:
            import torch
        except ImportError as error:
            print(error)
    """) == "torch is not installed on this device\n"  # fmt: skip


def test_everything_of_live_is_imported_without_torch():
    said = run("""
        import importlib, pkgutil
        import pipelines.live
        names = [module.name for module in pkgutil.iter_modules(pipelines.live.__path__, "pipelines.live.")]
        names += ["pipelines.cli", "pipelines.live_bench", "export.bundle", "export.session"]
        names += [f"data.{name}" for name in ("frame", "rig", "thermal", "prepare", "images", "yaml_file")]
        for name in names:
            importlib.import_module(name)
        print(len(names))
    """)
    assert int(said) >= 20


def test_help_loads_nothing_heavy():
    run("""
        from pipelines.cli import main
        assert main(["live", "--help"]) == 0
        heavy = {"numpy", "cv2", "av", "onnxruntime"} & set(sys.modules)
        assert not heavy, heavy
    """)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Eight test pairs of the tiny bundle's sizes, misaligned as their rig says."""
    pairs = {"train": 1, "val": 1, "test": 8, "unlabelled": 1}
    out = tmp_path_factory.mktemp("pairs")
    return DatasetCard.load(write_dataset(out, pairs, seed=3, rgb_size=(48, 64), thermal_size=(30, 40)))


def test_live_gives_the_same_detections_as_evaluate_on_the_same_pairs(tiny_bundle, card, tmp_path):
    samples = card.samples("test")
    for sensor in ("rgb", "thermal"):
        (tmp_path / sensor).mkdir()
        for sample in samples:
            path = getattr(sample, sensor)
            (tmp_path / sensor / f"{sample.id.replace('/', '_')}{path.suffix}").symlink_to(path)
    card.load_rig().save(tmp_path / "rig.yaml")
    run(
        """
        from pipelines.cli import main
        assert main(["live", *sys.argv[1:]]) == 0
        """,
        *(tiny_bundle, "--rgb", tmp_path / "rgb", "--thermal", tmp_path / "thermal", "--rig", tmp_path / "rig.yaml"),
        *("--score", 0, "--threads", 1, "--jsonl", tmp_path / "out.jsonl"),
    )
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    session = Session(read_bundle(tiny_bundle))
    preparer = Preparer(card.inputs(), card.load_rig())
    classes = read_bundle(tiny_bundle).info.classes
    assert len(lines) == len(samples)
    for line, sample in zip(lines, sorted(samples, key=lambda s: s.id), strict=True):
        prepared, _ = load_pair(sample, preparer)
        boxes = session.run(prepared.rgb[None], prepared.thermal[None], prepared.present[None])["boxes"][0]
        boxes = boxes[boxes[:, 4] > 0]
        assert line["present"] == [1, 1]
        assert len(line["boxes"]) == len(boxes) > 0
        np.testing.assert_allclose([b["box"] for b in line["boxes"]], boxes[:, :4] / prepared.scale, atol=0.1)
        np.testing.assert_allclose([b["score"] for b in line["boxes"]], boxes[:, 4], atol=1e-4)
        assert [b["class"] for b in line["boxes"]] == [classes[int(label)] for label in boxes[:, 5]]
    session.close()
