"""Pairs that are the same, or nearly: copies, and one recording on both sides of a split."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from data.check.findings import Finding
from data.frame import Image

Words = NDArray[np.uint64]

_EDGE = 16
BITS = _EDGE * _EDGE
COPY = 24
"""Bits of each sensor's hash up to which two pairs are copies. All of 296 real pairs, darkened by a tenth, some
halved in size, and encoded anew as JPEG stayed within 22; of 26 106 pairs of different driving pictures the nearest
differ by 52 in one sensor."""
VIEW = 110
"""Bits of both hashes together up to which two pairs show the same view. Of those 26 106 the two nearest, frames of one
drive, are 95 and 106 apart, the next 164; frames of a fixed street camera lie around 70 to 140 apart, so that the
nearest of many is well within."""
_BANDS = 17
"""Two hashes that differ in at most 16 bits are equal in one of 17 bands of bits; of those that differ in 24, nearly
all are."""
_NEIGHBOURS = 12
_MOST_VIEWS = 2000
"""Pairs of a split whose nearest in another split is looked for."""
_CHUNK = 512
_ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_SHUFFLED = np.random.default_rng(0).permutation(BITS)


def dhash(image: Image) -> Words:
    """Difference hash: 256 bits in 4 words that say where brightness rises to the right, on a grid of 16×17.

    It stays nearly the same when a picture is scaled, encoded anew, or made darker.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    values = np.nan_to_num(grey.astype(np.float32), posinf=0, neginf=0)
    small = cv2.resize(values, (_EDGE + 1, _EDGE), interpolation=cv2.INTER_AREA)
    bits = (small[:, 1:] > small[:, :-1]).ravel()[_SHUFFLED]
    return np.packbits(bits).view(np.uint64)


@dataclass
class Prints:
    """What tells pairs apart: one entry for each pair, in the order of the card."""

    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    digests: list[Mapping[str, str]] = field(default_factory=list)
    """Sensor → digest of the file."""
    hashes: list[Mapping[str, Words]] = field(default_factory=list)
    """Sensor → ``dhash``; a flat picture has none."""


def exact(prints: Prints, frozen: set[str]) -> list[Finding]:
    """Files that are there twice; across splits an error: a pair that is trained on and tested on flatters."""
    findings = []
    first: dict[str, tuple[str, str]] = {}
    for one, split, digests in zip(prints.ids, prints.splits, prints.digests, strict=True):
        for sensor, digest in digests.items():
            other, where = first.setdefault(digest, (one, split))
            if other == one or (sensor == "thermal" and where == split and one in frozen):
                continue
            text = f"pairs '{other}' ({where}) and '{one}' ({split}) have the same {sensor} file"
            findings.append(Finding("warning" if where == split else "error", "duplicate", one, text))
    return findings


def near(prints: Prints) -> list[Finding]:
    """Pairs that are copies of each other, yet not the same files: one finding for each two splits."""
    counts: Counter[tuple[str, str]] = Counter()
    shown: dict[tuple[str, str], tuple[str, str]] = {}
    for a, b in sorted(_copies(prints)):
        if any(prints.digests[b].get(sensor) == digest for sensor, digest in prints.digests[a].items()):
            continue
        both = (prints.splits[a], prints.splits[b])
        counts[both] += 1
        shown.setdefault(both, (prints.ids[a], prints.ids[b]))
    findings = []
    for both, count in counts.items():
        one, other = shown[both]
        where = f"within '{both[0]}'" if both[0] == both[1] else f"of '{both[0]}' and '{both[1]}'"
        text = (
            f"{count} times two pairs {where} are nearly the same, encoded anew or of a still scene "
            f"(first: '{one}' and '{other}')"
        )
        findings.append(Finding("note" if both[0] == both[1] else "warning", "near-duplicate", one, text))
    return findings


def _copies(prints: Prints) -> set[tuple[int, int]]:
    """Index pairs (a < b) of which every shared sensor's hash is at most ``COPY`` apart."""
    found: set[tuple[int, int]] = set()
    for sensor, rows in _by_key(prints).items():
        if len(rows) < 2:
            continue
        words = np.stack([prints.hashes[row][sensor] for row in rows])
        splits = np.unique([prints.splits[row] for row in rows], return_inverse=True)[1]
        for left, right in _neighbours(words, splits):
            close = _ones(words[left] ^ words[right]) <= COPY
            for a, b in zip(left[close].tolist(), right[close].tolist(), strict=True):
                first, second = sorted((rows[a], rows[b]))
                if all(apart <= COPY for apart in _apart(prints, first, second)):
                    found.add((first, second))
    return found


def _by_key(prints: Prints) -> dict[str, list[int]]:
    """Rows by the sensor whose hash sorts them: RGB where there is one."""
    keys: dict[str, list[int]] = {"RGB": [], "thermal": []}
    for row, hashes in enumerate(prints.hashes):
        key = next((sensor for sensor in keys if sensor in hashes), None)
        if key is not None:
            keys[key].append(row)
    return keys


def _apart(prints: Prints, a: int, b: int) -> list[int]:
    first, second = prints.hashes[a], prints.hashes[b]
    return [int(_ones((first[sensor] ^ second[sensor])[None])[0]) for sensor in first.keys() & second.keys()]


def _neighbours(words: Words, splits: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Candidates: rows near each other when sorted by each band, and the nearest above of another split.

    The cost grows as n log n. Rows with an equal band are all found unless more than ``_NEIGHBOURS`` lie between them.
    """
    bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1)
    for band in range(_BANDS):
        turned = np.packbits(np.roll(bits, -band * (BITS // _BANDS), axis=1), axis=1).view(">u8")
        order = np.lexsort(turned.T[::-1])
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            yield order[:-step], order[step:]
        of = splits[order]
        starts = np.maximum.accumulate(np.where(np.r_[True, of[1:] != of[:-1]], np.arange(len(of)), 0))
        has = starts > 0
        yield order[starts[has] - 1], order[has]


def _ones(words: Words) -> NDArray[np.int64]:
    return np.asarray(_ONES[words.view(np.uint8).reshape(len(words), 8 * words.shape[1])].sum(axis=1, dtype=np.int64))


def views(prints: Prints, learnt: str, judged: Sequence[str]) -> list[Finding]:
    """Say how much of the splits that judge shows the views of the one that is learnt from.

    At most 2000 pairs of each, spread evenly, are compared with all of the first.
    """
    rows = [row for row, hashes in enumerate(prints.hashes) if len(hashes) == 2]
    first = [row for row in rows if prints.splits[row] == learnt]
    findings = []
    for split in judged:
        second = [row for row in rows if prints.splits[row] == split]
        if not first or not second:
            continue
        second = [second[k] for k in np.linspace(0, len(second) - 1, min(_MOST_VIEWS, len(second))).astype(int)]
        apart, nearest = _nearest(_signs(prints, second), _signs(prints, first))
        alike = np.flatnonzero(apart <= VIEW)
        if not len(alike):
            continue
        one, other = prints.ids[second[alike[0]]], prints.ids[first[nearest[alike[0]]]]
        text = (
            f"{len(alike)} of {len(second)} pairs of '{split}' show the view of a pair of '{learnt}' (first: '{one}' "
            f"and '{other}'): frames of one recording on both sides make '{split}' flatter; split by sequence or camera"
        )
        findings.append(Finding("warning", "same-view", split, text))
    return findings


def _signs(prints: Prints, rows: Sequence[int]) -> NDArray[np.float32]:
    words = np.stack([np.concatenate([prints.hashes[row]["RGB"], prints.hashes[row]["thermal"]]) for row in rows])
    return np.unpackbits(words.view(np.uint8).reshape(len(rows), -1), axis=1).astype(np.float32) * 2 - 1


def _nearest(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row of ``first``: how many bits the nearest of ``second`` differs by, and which it is."""
    apart, which = [], []
    for start in range(0, len(first), _CHUNK):
        product = first[start : start + _CHUNK] @ second.T
        which.append(product.argmax(axis=1))
        apart.append((first.shape[1] - product.max(axis=1)) / 2)
    return np.concatenate(apart).astype(np.int64), np.concatenate(which).astype(np.int64)
