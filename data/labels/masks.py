"""Masks: from PNG as the field stores them (indices, palettes, colours, one of four channels) to class indices."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.card import DatasetCard
from data.card_fields import IGNORE, Colour, Masks
from data.encoded import decode
from data.errors import DataError
from data.sample import Sample
from data.text_file import read_bytes

Mask = NDArray[np.uint8]
Pixels = NDArray[np.uint8 | np.uint16]
_PNG = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3
"""PNG's colour type of pictures with a palette."""
_UNKNOWN = 254
_RESERVED = {"background": 0, "ignore": IGNORE}


def read_mask(sample: Sample, card: DatasetCard) -> Mask:
    """Read a sample's mask: H×W uint8 at RGB's size, 0 background, i the class ``classes[i - 1]``, 255 not judged.

    Raises:
        DataError: the sample has none, or as ``read_mask_file``.
    """
    if sample.mask is None or card.masks is None:
        raise DataError(f"{card.path}: pair '{sample.id}' has no mask")
    return read_mask_file(sample.mask, card.masks, card.classes)


def read_mask_file(path: Path, masks: Masks, classes: Sequence[str]) -> Mask:
    """Read one mask: H×W uint8, 0 background, i the class ``classes[i - 1]``, 255 what is not judged.

    Raises:
        DataError: the file is missing or damaged, has other channels than the card says, or a value or colour that is
            no class.
    """
    if masks.palette is not None:
        return _by_colour(_pixels(path, colours=True), masks.palette, classes, path)
    return _by_index(read_indices(path, masks.channel), masks, classes, path)


def read_indices(path: Path, channel: int | None = None) -> Pixels:
    """Read the indices in a mask as the file holds them: H×W; of several equal channels one, else ``channel``.

    Raises:
        DataError: the file is missing or damaged, or has other channels.
    """
    return _one_channel(_pixels(path, colours=False), channel, path)


def _pixels(path: Path, colours: bool) -> Pixels:
    """H×W, or H×W×C in the file's order; a PNG with a palette of its own comes as its indices or its colours."""
    raw = read_bytes(path, "the mask")
    png = raw.startswith(_PNG) and len(raw) > 25 and not colours
    image = decode(_without_palette(raw) if png and raw[25] == _INDEXED else raw, str(path))
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: the mask is {image.dtype}, expected 8 or 16 bits")
    if png and raw[24] in (1, 2, 4):
        image = image // (255 // (2 ** raw[24] - 1))  # OpenCV spreads few bits over 0 … 255, and 255 is ignored
    return np.asarray(image)


def _without_palette(raw: bytes) -> bytes:
    """The PNG as a grey one, whose levels are the indices: OpenCV would look up the colours."""
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(raw):
        end = at + 12 + struct.unpack(">I", raw[at : at + 4])[0]
        kind, chunk = raw[at + 4 : at + 8], raw[at:end]
        if kind == b"IHDR":
            body = kind + chunk[8:17] + b"\0" + chunk[18:21]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if kind not in (b"PLTE", b"tRNS", b"bKGD", b"hIST"):
            kept.append(chunk)
        at = end
    return b"".join(kept)


def _one_channel(pixels: Pixels, channel: int | None, path: Path) -> Pixels:
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channel is not None:
        if channel >= count:
            raise DataError(f"{path}: the mask has {count} channels, the card says masks.channel: {channel} (from 0)")
        return pixels if pixels.ndim == 2 else pixels[:, :, channel]
    if pixels.ndim == 2:
        return pixels
    first = pixels[:, :, 0]
    if count == 3 and all(np.array_equal(first, pixels[:, :, k]) for k in (1, 2)):
        return first
    raise DataError(
        f"{path}: the mask has {count} different channels: say masks.palette: {{NAME: [r, g, b], …}} where they are "
        "colours, or masks.channel where one of them holds indices"
    )


def _by_index(pixels: Pixels, masks: Masks, classes: Sequence[str], path: Path) -> Mask:
    first = 0 if masks.zero == "class" else 1
    table = np.full(1 << (8 * pixels.dtype.itemsize), _UNKNOWN, np.uint8)
    table[first : first + len(classes)] = np.arange(1, len(classes) + 1)
    if masks.zero != "class":
        table[0] = 0 if masks.zero == "background" else IGNORE
    if masks.ignore < len(table):
        table[masks.ignore] = IGNORE
    found = table[pixels] if len(table) > 256 else np.asarray(cv2.LUT(pixels, table), np.uint8)
    place = _first_unknown(found)
    if place is not None:
        row, column = place
        raise DataError(
            f"{path}: class index {pixels[row, column]} at x {column}, y {row}; the card has {len(classes)} classes: "
            f"0 … {first + len(classes) - 1} and {masks.ignore} (ignored) are known"
        )
    return found


def _by_colour(pixels: Pixels, palette: Mapping[str, Colour], classes: Sequence[str], path: Path) -> Mask:
    if pixels.ndim != 3 or pixels.shape[2] < 3 or pixels.dtype != np.uint8:
        found = "1 channel" if pixels.ndim == 2 else f"{pixels.shape[2]} channels of {pixels.dtype}"
        raise DataError(f"{path}: the mask has {found}, but the card says masks.palette, which needs colours of 8 bits")
    four = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    packed = np.asarray(four).view("<u4")[:, :, 0] & 0xFFFFFF  # red << 16 | green << 8 | blue
    values: Mask = _colour_table(tuple(palette.items()), tuple(classes))[packed]
    place = _first_unknown(values)
    if place is not None:
        row, column = place
        raise DataError(
            f"{path}: the colour {pixels[row, column, :3].tolist()} at x {column}, y {row} is not in the card's "
            "masks.palette"
        )
    return values


@lru_cache(maxsize=2)
def _colour_table(palette: tuple[tuple[str, Colour], ...], classes: tuple[str, ...]) -> Mask:
    """Every colour's value, 16 MiB.

    To search each pixel among the colours took 6.9 ms at 480×640, this 3.2 with decoding (2026-11-21).
    """
    known = {**{name: k for k, name in enumerate(classes, 1)}, **_RESERVED}
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for name, (red, green, blue) in palette:
        table[red << 16 | green << 8 | blue] = known[name]
    return table


def _first_unknown(mask: Mask) -> tuple[int, int] | None:
    """Row and column of the first pixel that is no class."""
    unknown = mask == _UNKNOWN
    if not unknown.any():
        return None
    row, column = divmod(int(unknown.argmax()), mask.shape[1])
    return row, column
