"""Is the thermal camera mounted mirrored or turned? Which of the eight symmetries makes the edges meet."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.rig import FLIPS, ROTATIONS, Rig
from data.signs.sign import Kind, Sign, grey

MOUNTS: tuple[tuple[int, str], ...] = (
    (0, "none"), (0, "horizontal"), (0, "vertical"), (180, "none"), (90, "none"), (270, "none"), (90, "horizontal"),
    (270, "horizontal"),
)  # fmt: skip
"""Degrees clockwise and the flip after that: each of the eight symmetries once."""
_PIXELS = 96 * 72
_REACH = 0.1
"""Part of the picture by which the two may be shifted against each other."""
_LEAST_PAIRS = 4
_SURE, _GAIN, _SHARE = 4.0, 0.02, 0.7
"""t value, gain of correlation and share of pairs above which another mount is believed."""


def turn(image: Image, rotate: int, flip: str) -> Image:
    """Rotate clockwise, then flip, as a rig says it."""
    if rotate:
        image = cv2.rotate(image, ROTATIONS[rotate])
    return np.asarray(image if flip == "none" else cv2.flip(image, FLIPS[flip]))


def compose(rig: Rig, rotate: int, flip: str) -> tuple[int, str]:
    """The one turn that does what the rig does, then this one."""
    probe = np.arange(6, dtype=np.uint8).reshape(2, 3)
    wanted = turn(turn(probe, rig.rotate, rig.flip), rotate, flip)
    return next(mount for mount in MOUNTS if np.array_equal(turn(probe, *mount), wanted))


def find_mount(frames: Sequence[Image], rgbs: Sequence[Image | None], rig: Rig) -> list[Sign]:
    """Say when thermal meets RGB clearly better mirrored or turned; nothing for a rig with a homography."""
    if rig.homography is not None:
        return []
    scores = np.array(
        [
            mount_scores(turn(grey(frame, _fitted(frame)), rig.rotate, rig.flip), grey(rgb, _fitted(rgb)))
            for frame, rgb in zip(frames, rgbs, strict=True)
            if rgb is not None
        ]
    )
    if len(scores) < _LEAST_PAIRS:
        return []
    best = int(scores.mean(axis=0).argmax())
    gain = scores[:, best] - scores[:, 0]
    t = float(gain.mean() / (gain.std(ddof=1) / np.sqrt(len(gain)) + 1e-9))
    share = float((gain > 0).mean())
    if best == 0 or t < _SURE or gain.mean() < _GAIN or share < _SHARE:
        return []
    rotate, flip = compose(rig, *MOUNTS[best])
    turned, mirrored = MOUNTS[best]
    how = f"turned by {turned}°" if mirrored == "none" else f"mirrored ({mirrored})"
    if turned and mirrored != "none":
        how = f"turned by {turned}° and {how}"
    text = (
        f"thermal meets RGB better {how}: edges correlate {scores[:, best].mean():.2f} so and "
        f"{scores[:, 0].mean():.2f} as it is, in {share:.0%} of {len(scores)} pairs (t = {t:.0f})"
    )
    sure = min(0.99, share * (1 - np.exp(-t / 4)))
    kind: Kind = "mirrored" if mirrored != "none" else "rotated"
    return [Sign(kind, text, {"rig": {"rotate": rotate, "flip": flip}}, round(float(sure), 2))]


def _fitted(image: Image) -> tuple[int, int]:
    """Width, height of the picture when it is scaled to twice the pixels that are compared, in each direction."""
    scale = min(1.0, 2 * np.sqrt(_PIXELS / (image.shape[0] * image.shape[1])))
    return max(8, round(image.shape[1] * scale)), max(8, round(image.shape[0] * scale))


def mount_scores(thermal: NDArray[np.float32], rgb: NDArray[np.float32]) -> NDArray[np.float64]:
    """[8] best correlation of edges within a tenth of the picture, for each of MOUNTS."""
    scale = np.sqrt(_PIXELS / rgb.size)
    height, width = max(8, round(rgb.shape[0] * scale)), max(8, round(rgb.shape[1] * scale))
    fixed = np.fft.rfft2(_edges(rgb, height, width))
    reach_y, reach_x = max(1, int(height * _REACH)), max(1, int(width * _REACH))
    scores = []
    for mount in MOUNTS:
        moved = np.fft.rfft2(_edges(turn(thermal, *mount), height, width))
        shifts = np.fft.irfft2(fixed * np.conj(moved), s=(2 * height, 2 * width))
        near = np.roll(shifts, (reach_y, reach_x), (0, 1))[: 2 * reach_y + 1, : 2 * reach_x + 1]
        scores.append(float(near.max()))
    return np.array(scores)


def _edges(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Gradient magnitude at that size, in a frame of zeros of twice the size; zero mean, unit norm."""
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.8)
    magnitude = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    magnitude = np.sqrt(np.minimum(magnitude, np.percentile(magnitude, 98)))
    magnitude -= magnitude.mean()
    padded = np.zeros((2 * height, 2 * width), np.float32)
    padded[:height, :width] = magnitude / (np.linalg.norm(magnitude) + 1e-9)
    return padded
