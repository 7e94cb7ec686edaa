"""A client of a bundle without rgbt-fusion: numpy, onnxruntime and OpenCV are all it needs.

    python client.py BUNDLE --verify                                        this machine answers as PyTorch did
    python client.py BUNDLE --rgb picture.jpg --thermal picture.png         the answer as JSON; either may be left out
    python client.py BUNDLE --rgb picture.jpg --precision int8

Every file's SHA-256 is checked before anything is opened, and nothing is unpickled. deploy/README.md says what the
fields of bundle.json mean. Thermal files must hold the bundle's unit, upright and on RGB's field of view.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # official builds report over the network; read on import
import onnxruntime

NEWEST_SCHEMA = 2
DTYPES = {"intensity8": np.uint8, "counts16": np.uint16, "celsius": np.float32}
INPUTS = ("rgb", "thermal", "present")
RGB_PADDING = 114
LEAST_SCORE = 0.3

Size = tuple[int, int]
Arrays = dict[str, np.ndarray]


def read_file(path: Path) -> bytes:
    """What the file holds."""
    if not path.is_file():
        raise SystemExit(f"{path}: not a file that can be read")
    return path.read_bytes()


def read_info(bundle: Path) -> dict[str, Any]:
    """bundle.json, after the hash of every file held."""
    raw = read_file(bundle / "bundle.json")
    try:
        info = json.loads(raw)
    except ValueError as error:
        raise SystemExit(f"{bundle / 'bundle.json'}: not JSON ({error}); copy the bundle again") from None
    if not {"schema_version", "files"} <= set(info):
        raise SystemExit(f"{bundle / 'bundle.json'}: not of a bundle; copy the bundle again")
    if info["schema_version"] > NEWEST_SCHEMA:
        raise SystemExit(f"{bundle}: schema {info['schema_version']} is newer than this client's {NEWEST_SCHEMA}")
    for name, digest in info["files"].items():
        # Its own digest cannot be in what it is taken of: 64 zeros stand there instead.
        own = name == "bundle.json"
        content = raw.replace(digest.encode(), b"0" * 64) if own else read_file(bundle / name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise SystemExit(f"{bundle / name}: was changed after export; copy the bundle again")
    return info


def open_model(bundle: Path, info: dict[str, Any], precision: str, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU; schema 1 has the one model at fp32."""
    files = {"onnxruntime-fp32": ["model.onnx"]}
    files |= {key: variant["files"] for key, variant in info.get("variants", {}).items()}
    key = f"onnxruntime-{precision}"
    if key not in files:
        raise SystemExit(f"{bundle}: holds no {key}, only {', '.join(files)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(bundle / files[key][0]), options, providers=["CPUExecutionProvider"])


def fit(size: Size, canvas: Size) -> tuple[float, Size]:
    """Scale of a frame of that height and width on the canvas, and its height and width there."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    return scale, (min(canvas[0], round(size[0] * scale)), min(canvas[1], round(size[1] * scale)))


def place(image: np.ndarray, content: Size, canvas: Size, padding: float) -> np.ndarray:
    """Bilinear with half-pixel centres (as cv2.resize does), top left on the canvas."""
    placed = np.full((*canvas, *image.shape[2:]), padding, image.dtype)
    placed[: content[0], : content[1]] = cv2.resize(image, content[::-1], interpolation=cv2.INTER_LINEAR)
    return placed


def off_invalid(thermal: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """A frame whose valid pixels never equal ``invalid``, and whose others all do."""
    invalid = thermal.dtype.type(spec["invalid"])
    if thermal.dtype == np.float32:
        return np.where(np.isfinite(thermal), thermal, invalid)
    if spec["marked"] or spec["blank"]:
        return thermal
    return np.where(thermal == invalid, invalid + 1 if invalid == 0 else invalid - 1, thermal).astype(thermal.dtype)


def prepare(rgb: np.ndarray | None, thermal: np.ndarray | None, info: dict[str, Any]) -> tuple[Arrays, float]:
    """Frames as delivered (H×W×3 uint8 in R, G, B; H×W in the unit; either None) → the three inputs, and the scale."""
    inputs, spec = info["inputs"], info["inputs"]["thermal"]
    rgb_size, thermal_size, dtype = tuple(inputs["rgb_size"]), tuple(inputs["thermal_size"]), DTYPES[spec["unit"]]
    sensors = info["sensors"]
    if len(sensors) == 1 and (rgb if sensors == ["rgb"] else thermal) is None:
        raise SystemExit(f"the model looks at {sensors[0]} alone; give its picture")
    if thermal is not None and (thermal.ndim != 2 or thermal.dtype != dtype):
        raise SystemExit(f"thermal is {thermal.dtype} {thermal.shape}, expected H×W of {np.dtype(dtype)}")
    scale = 1.0
    if thermal is not None:
        thermal = off_invalid(thermal, spec)
    if inputs["letterbox"]:
        scale, content = fit((thermal if rgb is None else rgb).shape[:2], rgb_size)
        if rgb is not None:
            rgb = place(rgb, content, rgb_size, RGB_PADDING)
        if thermal is not None:
            hole = (thermal == spec["invalid"]).astype(np.float32)
            thermal = place(thermal, content, rgb_size, spec["invalid"])
            thermal[place(hole, content, rgb_size, 1.0) > 1e-3] = spec["invalid"]  # what was mixed with a hole is one
    for name, image, size in (("rgb", rgb, rgb_size), ("thermal", thermal, thermal_size)):
        if image is not None and image.shape[:2] != size:
            raise SystemExit(f"{name} is {image.shape[1]}×{image.shape[0]}, expected {size[1]}×{size[0]}")
    present = np.array([[rgb is not None, thermal is not None]], np.float32)
    rgb = np.zeros((*rgb_size, 3), np.uint8) if rgb is None else rgb
    thermal = np.zeros(thermal_size, dtype) if thermal is None else thermal
    return {"rgb": rgb[None], "thermal": thermal[None], "present": present}, scale


def answer(model: onnxruntime.InferenceSession, feeds: Arrays) -> Arrays:
    """Name → array, each [B, …]."""
    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, model.run(names, feeds), strict=True))


def told(outputs: Arrays, scale: float, size: Size, classes: list[str]) -> list[dict[str, Any]] | dict[str, float]:
    """The answer to one pair, in pixels of the RGB frame of that height and width."""
    if "boxes" in outputs:
        found = [row for row in outputs["boxes"][0].tolist() if row[4] >= LEAST_SCORE]
        return [
            {"box": [side / scale for side in box], "score": score, "class": classes[int(kind)]}
            for *box, score, kind in found
        ]
    if "class_map" in outputs:
        height, width = fit(size, outputs["class_map"].shape[1:])[1]  # without the padding
        shown = outputs["class_map"][0, :height, :width]
        return {name: float((shown == index).mean()) for index, name in enumerate(["background", *classes])}
    return dict(zip(classes, outputs["probabilities"][0].tolist(), strict=True))


def verify(bundle: Path, model: onnxruntime.InferenceSession) -> tuple[dict[str, float], bool]:
    """Largest differences from what PyTorch answered, pair by pair; and whether they are within fp32's limits."""
    with np.load(bundle / "golden.npz", allow_pickle=False) as archive:
        golden = dict(archive)
    worst = {}
    for at in range(len(golden["present"])):
        found = answer(model, {name: golden[name][at : at + 1] for name in INPUTS})
        for name, values in found.items():
            for figure, value in differences(name, golden[name][at], values[0]).items():
                worst[figure] = max(value, worst.get(figure, 0.0))
    limits = {"boxes_px": 0.1, "class_map": 1e-3}
    return worst, all(value <= limits.get(name, 1e-4) for name, value in worst.items())


def differences(name: str, expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Of one pair's answer: scores and boxes, the share of pixels of another class, or numbers."""
    if name == "class_map":
        return {name: float((expected != found).mean())}
    if name != "boxes":
        return {name: float(np.abs(expected - found).max())}
    scores = np.abs(np.sort(expected[:, 4]) - np.sort(found[:, 4])).max()
    pixels = 0.0
    for box in expected[expected[:, 4] > expected[-1, 4] + 1e-4]:  # slots level with the last may be other ones
        near = found[(found[:, 5] == box[5]) & (np.abs(found[:, 4] - box[4]) <= 1e-4)]
        pixels = max(pixels, float(np.abs(near[:, :4] - box[:4]).max(1).min(initial=np.inf)))
    return {"boxes_scores": float(scores), "boxes_px": pixels}


def read_picture(path: Path, is_rgb: bool) -> np.ndarray:
    """A file as it is; OpenCV gives B, G, R."""
    content = np.frombuffer(read_file(path), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR if is_rgb else cv2.IMREAD_UNCHANGED) if len(content) else None
    if image is None:
        raise SystemExit(f"{path}: not a picture that can be read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if is_rgb else image


def main() -> int:
    """Check, then verify or answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--rgb", type=Path)
    parser.add_argument("--thermal", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    info = read_info(args.bundle)
    model = open_model(args.bundle, info, args.precision, args.threads)
    if args.verify:
        worst, holds = verify(args.bundle, model)
        # A lower precision answers a little otherwise; bundle.json's 'proofs' say how much that costs.
        print(json.dumps({"worst": worst, "holds": holds if args.precision == "fp32" else None}))
        return 0 if holds or args.precision != "fp32" else 1
    if args.rgb is None and args.thermal is None:
        parser.error("give --rgb, --thermal or both, or --verify")
    rgb = read_picture(args.rgb, True) if args.rgb else None
    thermal = read_picture(args.thermal, False) if args.thermal else None
    feeds, scale = prepare(rgb, thermal, info)
    size = (thermal if rgb is None else rgb).shape[:2]
    size = size if info["inputs"]["letterbox"] else info["inputs"]["rgb_size"]
    print(json.dumps(told(answer(model, feeds), scale, size, info["classes"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
