"""What lies in two folders of pictures: which files pair, their sizes and kind, and what has to be assumed of them."""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.images import SUFFIXES, Header, read_header
from data.patterns import as_pattern, id_from_name, id_of

RGB_NAMES = (
    "{id}",
    "{id}_rgb",
    "{id}_RGB",
    "{id}-rgb",
    "{id}_visible",
    "{id}_vis",
    "{id}_vi",
    "rgb_{id}",
    "visible_{id}",
)
THERMAL_NAMES = (
    "{id}", "{id}_thermal16", "{id}_thermal", "{id}_ir", "{id}_IR", "{id}-ir", "{id}_infrared", "{id}_tir", "{id}_lwir",
    "{id}_radiometric", "thermal_{id}", "ir_{id}", "infrared_{id}",
)  # fmt: skip
"""How the two files of a pair may be called, the plainest first."""
RGB_FOLDERS = ("visible", "rgb", "vis", "vi", "color", "colour")
THERMAL_FOLDERS = ("infrared", "thermal", "ir", "lwir", "tir", "thermal16", "thermal8")
LABEL_PLACES = ("boxes.json", "annotations.json", "labels.json", "labels.csv", "annotations", "labels", "masks")
"""Names, in small letters, that plain folders and their labels have."""
_THREADS = 8

Pixels = tuple[int, int]
"""Height, width."""


@dataclass(frozen=True, slots=True)
class Side:
    """One sensor's files that follow one naming."""

    pattern: str
    files: dict[str, Path]
    """Id → path."""


def find_folders(root: Path) -> tuple[Path, Path, Path | None] | None:
    """RGB folder, thermal folder and labels of a folder without a known layout; None: it holds no such two."""
    entries = {path.name.lower(): path for path in sorted(root.iterdir())}
    rgb, thermal, labels = (
        [entries[name] for name in names if name in entries and (folders is False or entries[name].is_dir())]
        for names, folders in ((RGB_FOLDERS, True), (THERMAL_FOLDERS, True), (LABEL_PLACES, False))
    )
    if len(rgb) == len(thermal) == 1:
        return rgb[0], thermal[0], labels[0] if labels else None
    pictures = [name for name, path in entries.items() if path.suffix.lower() in SUFFIXES]
    if rgb or thermal or not pictures:
        return None
    named = any(re.search(r"_(mask|label|labels|gt)\.", name) for name in pictures)
    return root, root, root if named else None


def split_pattern(path: Path) -> tuple[Path, str | None]:
    """``shots/{id}_rgb.png`` → the folder ``shots`` and the pattern below it; a plain folder has no pattern.

    Raises:
        DataError: there are braces, but no pattern of a pair's files.
    """
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if "{" in part or "}" in part), None)
    if first is None:
        return path, None
    return Path(*parts[:first]), as_pattern("/".join(parts[first:]), str(path))


def find_pairs(
    rgb_dir: Path,
    thermal_dir: Path,
    assumed: list[str],
    rgb_pattern: str | None = None,
    thermal_pattern: str | None = None,
) -> tuple[Side, Side, list[str]]:
    """Pair the files of two folders by name; return both sides and the ids that they share, sorted.

    The patterns, relative to the folders, are what the user says; None: the usual namings are tried.

    Raises:
        DataError: a folder holds no pictures, or no names fit together.
    """
    rgb_sides = _sides(rgb_dir, RGB_NAMES) if rgb_pattern is None else [_side(rgb_dir, rgb_pattern)]
    thermal_sides = (
        _sides(thermal_dir, THERMAL_NAMES) if thermal_pattern is None else [_side(thermal_dir, thermal_pattern)]
    )
    same = rgb_dir.resolve() == thermal_dir.resolve()
    best: tuple[int, Side, Side] | None = None
    for rgb in rgb_sides:
        for thermal in thermal_sides:
            if same and rgb.pattern == thermal.pattern:
                continue
            count = len(rgb.files.keys() & thermal.files.keys())
            if count and (best is None or count > best[0]):
                best = count, rgb, thermal
    if best is None:
        names = (min(rgb_sides[0].files.values()).name, min(thermal_sides[0].files.values()).name)
        raise DataError(
            f"no file of {rgb_dir} (such as {names[0]}) pairs with one of {thermal_dir} (such as {names[1]}): the two "
            "need the same name, or endings such as _rgb and _thermal; else say both as patterns, such as "
            f"'{rgb_dir}/{{id}}_color.png'"
        )
    _, rgb, thermal = best
    ids = sorted(rgb.files.keys() & thermal.files.keys())
    assumed.append(f"pairs go by file name: {rgb.pattern} with {thermal.pattern}; {len(ids)} pairs")
    for side, folder in ((rgb, rgb_dir), (thermal, thermal_dir)):
        alone = sorted(side.files.keys() - set(ids))
        if alone:
            text = f"{len(alone)} files of {folder} have no partner and are left out"
            assumed.append(f"{text} (first: {side.files[alone[0]].name})")
    used = {*rgb.files.values(), *thermal.files.values()}
    _tell_unused(rgb_dir, rgb_sides, set(ids), used, assumed)
    _tell_unused(thermal_dir, thermal_sides, set(ids), used, assumed)
    return rgb, thermal, ids


def _tell_unused(folder: Path, sides: Sequence[Side], ids: set[str], used: set[Path], assumed: list[str]) -> None:
    """Say which files belong to the same pairs by their names and are not read, such as originals beside copies."""
    for side in sides:
        more = {one: path for one, path in side.files.items() if one in ids and path not in used}
        if more:
            used |= set(more.values())
            assumed.append(
                f"! {len(more)} files {side.pattern} belong to these pairs too, and are not used (first: "
                f"{min(more.values()).name}); to use them, name them as '{folder}/{side.pattern}'"
            )


def _side(folder: Path, pattern: str) -> Side:
    """The files of a folder that follow the user's pattern."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths = [path for path in sorted(folder.rglob("*.*")) if path.is_file()]
    named = ((id_of(path.relative_to(folder).as_posix(), pattern), path) for path in paths)
    files = {one: path for one, path in named if one is not None}
    if not files:
        there = f"such as {paths[0].relative_to(folder)}" if paths else "none"
        raise DataError(f"{folder}: no file follows the pattern {pattern} (there are {len(paths)} files, {there})")
    return Side(pattern, files)


def _sides(folder: Path, namings: Sequence[str]) -> list[Side]:
    """Every way to read ids out of a folder's file names, for each suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            by_suffix.setdefault(path.suffix, []).append(path)
    if not by_suffix:
        raise DataError(f"{folder}: no pictures here ({', '.join(SUFFIXES)})")
    sides = []
    for suffix, paths in by_suffix.items():
        for naming in namings:
            files = {}
            for path in paths:
                one = id_from_name(path.stem, naming)
                if one is not None:
                    files[(path.relative_to(folder).parent / one).as_posix()] = path
            # With an ending after the id, folders stay before it: a/b/{id}_rgb.png
            if files and (naming.startswith("{id}") or not any("/" in one for one in files)):
                sides.append(Side(naming + suffix, files))
    return sides


def find_headers(
    rgb: Side,
    thermal: Side,
    ids: Sequence[str],
    assumed: list[str],
    read_thermal_header: Callable[[Path], Header] = read_header,
) -> dict[str, tuple[Header, Header]]:
    """Id → what the RGB and the thermal file say of themselves; a few pairs whose files cannot be read are left out.

    ``read_thermal_header`` says what a thermal file holds: that may be another picture than the one that shows.

    Raises:
        DataError: of half of the pairs a file cannot be read; or depths are mixed.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        rgb_headers = list(pool.map(header_or_error, [rgb.files[one] for one in ids]))
        thermal_files = [thermal.files[one] for one in ids]
        thermal_headers = list(pool.map(lambda path: header_or_error(path, read_thermal_header), thermal_files))
    headers, wrong = dict[str, tuple[Header, Header]](), list[DataError]()
    for one, a, b in zip(ids, rgb_headers, thermal_headers, strict=True):
        if isinstance(a, Header) and isinstance(b, Header):
            headers[one] = a, b
        else:
            wrong += [error for error in (a, b) if isinstance(error, DataError)][:1]
    if 2 * len(wrong) >= len(ids):
        raise wrong[0]
    if wrong:
        text = f"! {len(wrong)} of {len(ids)} pairs have a file that cannot be read and are left out"
        assumed.append(f"{text} (first: {wrong[0]})")
    _one_dtype([a for a, _ in headers.values()], [rgb.files[one] for one in headers], "RGB")
    _one_dtype([b for _, b in headers.values()], [thermal.files[one] for one in headers], "thermal")
    return headers


def header_or_error(path: Path, read: Callable[[Path], Header] = read_header) -> Header | DataError:
    """What a file says of itself, or what is wrong with it."""
    try:
        return read(path)
    except DataError as error:
        return error


def find_sizes(
    headers: Sequence[tuple[Header, Header]], assumed: list[str]
) -> tuple[Pixels | None, Pixels | None, Pixels | None, str]:
    """Sizes of RGB and of thermal, or, where they vary, a canvas; and the dtype of thermal."""
    rgb_headers, thermal_headers = zip(*headers, strict=True)
    dtype = thermal_headers[0].dtype
    if dtype == "uint8" and any(header.channels == 3 for header in thermal_headers):
        assumed.append("thermal is stored as three channels; they must be equal, and one of them is read")
    sizes = Counter((a.size, b.size) for a, b in headers)
    if len(sizes) == 1:
        (rgb_size, thermal_size) = next(iter(sizes))
        assumed.append(f"all RGB frames are {_text(rgb_size)}, all thermal ones {_text(thermal_size)} (width×height)")
        _same_view([(rgb_size, thermal_size)], assumed)
        return rgb_size, thermal_size, None, dtype
    height, width = (statistics.median(header.size[k] for header in rgb_headers) for k in (0, 1))
    canvas = (-32 * int(-height // 32), -32 * int(-width // 32))
    common, count = sizes.most_common(1)[0]
    assumed.append(
        f"sizes vary ({len(sizes)} of them; {count} pairs have RGB {_text(common[0])}, thermal {_text(common[1])}): "
        f"frames are scaled onto a canvas of {_text(canvas)}, the multiple of 32 that holds the median"
    )
    _same_view(list(sizes), assumed)
    return None, None, canvas, dtype


def _same_view(sizes: list[tuple[Pixels, Pixels]], assumed: list[str]) -> None:
    unlike = sum(abs((a[1] / a[0]) / (b[1] / b[0]) - 1) > 0.1 for a, b in sizes)
    assumed.append("thermal covers the same view as RGB, upright (else give the card a rig)")
    if unlike:
        assumed.append(
            "! the two sensors' pictures differ in shape (width/height): probably they do not show the same view"
        )


def _one_dtype(headers: list[Header], paths: list[Path], sensor: str) -> None:
    found = Counter(header.dtype for header in headers)
    dtype = found.most_common(1)[0][0]
    if len(found) > 1:
        odd = next(path for header, path in zip(headers, paths, strict=True) if header.dtype != dtype)
        raise DataError(
            f"{sensor} pictures have mixed depths {dict(found)}, for example {odd}; make two data sets of them"
        )
    if sensor == "RGB" and dtype != "uint8":
        raise DataError(
            f"RGB pictures are {dtype}, expected 8 bits per channel (first: {paths[0]}); are the folders swapped?"
        )


def _text(size: Pixels) -> str:
    return f"{size[1]}×{size[0]}"
