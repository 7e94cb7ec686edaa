"""Recipes on disk: shipped by name, the user's own by path, variants of a parent, and changes from the command line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError

from data.augment.spec import AugmentSpec
from data.errors import DataError
from data.yaml_file import Location, describe, parse_yaml, read_yaml
from fusion.errors import FusionError
from fusion.recipe import Recipe

PARENT = "extends"
_LONGEST_NAME = 200
_SHIPPED = Path(str(resources.files("pipelines.recipes")))


@dataclass(frozen=True)
class Source:
    """Where a recipe was read; equal to any other, for it says nothing of what the recipe is."""

    path: Path = field(compare=False)
    lines: Mapping[Location, int] = field(compare=False)


class TrainRecipe(Recipe):
    """A recipe together with how its pictures are augmented."""

    augment: AugmentSpec = AugmentSpec()
    _source: Source | None = PrivateAttr(default=None)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Put file, and line where it is known, before what does not fit: the error's text begins with the field."""
        try:
            yield
        except FusionError as error:
            if self._source is None:
                raise
            raise FusionError(f"{_place(self._source, str(error))}: {error}") from None


def _place(source: Source, text: str) -> str:
    """File and line of the field that a text begins with, or of the nearest that holds it."""
    parts = text.partition(":")[0].split(".")
    at = tuple(int(part) if part.isdigit() else part for part in parts)
    known = next((at[:n] for n in range(len(at), 0, -1) if at[:n] in source.lines), None)
    return f"{source.path}" if known is None else f"{source.path}:{source.lines[known]}"


def shipped() -> dict[str, Path]:
    """Name → file of the recipes that come with the package."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def find_recipe(text: str) -> Path:
    """The file of a shipped recipe's name, or of a path; DataError lists the names."""
    if text in shipped():
        return shipped()[text]
    path = Path(text)
    if path.suffix in (".yaml", ".yml") and path.exists():
        return path
    raise DataError(f"no recipe '{text}': expected the path of a YAML file, or one of {', '.join(shipped())}")


def load_recipe(text: str, changes: Sequence[str] = ()) -> TrainRecipe:
    """Read a recipe by name or path, with what it inherits and with changes such as ``stages.0.epochs=5``.

    Raises:
        DataError: file, line and field of what is wrong, or the change that fits nothing.
    """
    path = find_recipe(text)
    content, lines = _read(path, ())
    for change in changes:
        lines = _change(content, change, lines)
    source = Source(path, lines)
    try:
        recipe = TrainRecipe.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"]:
            raise DataError(describe(error, TrainRecipe, path, lines)) from None
        text = first["msg"].removeprefix("Value error, ")  # of a check over the whole recipe: it begins with the field
        raise DataError(f"{_place(source, text)}: {text}") from None
    recipe._source = source
    return recipe


def _read(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Location, int]]:
    if path in children:
        raise DataError(f"{path}: extends itself through {', '.join(map(str, children))}")
    content, lines = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping with about, model and stages, found {type(content).__name__}")
    parent = content.pop(PARENT, None)
    if parent is None:
        return content, lines
    if not isinstance(parent, str) or not parent.isprintable() or len(parent) > _LONGEST_NAME:
        raise DataError(f"{path}:{lines.get((PARENT,))}: {PARENT}: {parent!r:.60}, expected a recipe's name or path")
    sibling = path.parent / f"{parent}.yaml"
    own = sibling.exists() and sibling != path  # a user's staged.yaml may extend the shipped one of that name
    source = sibling if own else _find_parent(parent, f"{path}:{lines.get((PARENT,))}")
    inherited, its_lines = _read(source, (*children, path))
    changed = content.get("stages")
    if isinstance(changed, dict):
        stages = _require_stages(inherited.get("stages"), Source(source, its_lines))
        content["stages"], lines = _change_stages(stages, changed, Source(path, lines))
    return _merge(inherited, content), lines


def _find_parent(name: str, place: str) -> Path:
    try:
        return find_recipe(name)
    except DataError as error:
        raise DataError(f"{place}: {PARENT}: {error}") from None


def _require_stages(stages: Any, source: Source) -> list[dict[str, Any]]:  # noqa: ANN401 - plain YAML content
    """A parent's stages as a list of mappings with names: only such can be changed by name."""
    if not isinstance(stages, list):
        found = "none" if stages is None else type(stages).__name__
        raise DataError(f"{_place(source, 'stages')}: stages: expected a list of stages to change, found {found}")
    for index, stage in enumerate(stages):
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
            field = f"stages.{index}"
            raise DataError(f"{_place(source, field)}: {field}: expected a mapping with a name, found {stage!r:.60}")
    return stages


def _change_stages(
    stages: list[dict[str, Any]], changes: Mapping[Any, Any], source: Source
) -> tuple[list[Any], dict[Location, int]]:
    """Change a parent's stages by name: null leaves one out, ``before: NAME`` puts a new one there.

    Return them with the lines at their new places.
    """
    listed = [(str(stage["name"]), stage) for stage in stages]
    for name, change in changes.items():
        field, names = f"stages.{name}", [known for known, _ in listed]
        if change is not None and not isinstance(change, Mapping):
            raise DataError(
                f"{_place(source, field)}: {field}: expected the fields to change, such as {{epochs: 5}}, or null to "
                f"leave the stage out; found {change!r:.60}"
            )
        if name in names:
            at = names.index(name)
            listed[at : at + 1] = [] if change is None else [(name, _merge(listed[at][1], change))]
        elif change is not None and change.get("before") in names:
            fields = {key: value for key, value in change.items() if key != "before"}
            listed.insert(names.index(change["before"]), (name, {"name": name, **fields}))
        else:
            raise DataError(
                f"{_place(source, field)}: {field}: the parent has no such stage; it has {', '.join(names)}; a new "
                "one says before: one of them"
            )
    places = {name: number for number, (name, _) in enumerate(listed)}
    moved = {("stages", places[at[1]], *at[2:]) if at[:1] == ("stages",) and at[1:2] and at[1] in places else at: line
             for at, line in source.lines.items()}  # fmt: skip
    return [stage for _, stage in listed], moved


def _merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """What the child says counts; mappings are merged key by key, lists are replaced whole (see _change_stages)."""
    merged = dict(parent)
    for key, value in child.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _change(content: dict[str, Any], change: str, lines: dict[Location, int]) -> dict[Location, int]:
    """Apply ``a.b.0.c=value`` in place; the value is read as YAML. Return the lines that still hold."""
    place, equals, text = change.partition("=")
    if not equals or not place:
        raise DataError(f"--set {change}: expected key=value, such as --set stages.0.epochs=5")
    value, _ = parse_yaml(text, f"--set {place}")
    parts: list[Any] = [int(part) if part.isdigit() else part for part in place.split(".")]
    *parents, last = parts
    at: Any = content
    for depth, key in enumerate(parents):
        if isinstance(at, list) and (found := _index(at, key)) is not None:
            key = parents[depth] = found
        at = _enter(at, key, change)
    if isinstance(at, list) and (found := _index(at, last)) is not None:
        return _change_entry(at, found, value, change, (*parents, found), lines)
    if isinstance(at, list) and not (isinstance(last, int) and last < len(at)):
        raise DataError(f"--set {change}: there is no entry {last}, the list has {len(at)}")
    if not isinstance(at, (dict, list)):
        raise DataError(f"--set {change}: '{parents[-1]}' is a single value, it has no '{last}'")
    at[last] = value
    changed = (*parents, last)
    return {where: line for where, line in lines.items() if where[: len(changed)] != changed}


def _change_entry(
    entries: list[Any],
    index: int,
    value: Any,  # noqa: ANN401 - plain YAML content
    change: str,
    place: Location,
    lines: dict[Location, int],
) -> dict[Location, int]:
    """Change a stage that was named: null leaves it out, a mapping changes its fields. Return the lines that hold."""
    if isinstance(value, Mapping):
        entries[index] = _merge(entries[index], value)
        return {at: line for at, line in lines.items() if at[: len(place)] != place or len(at) == len(place)}
    if value is not None:
        key = change.partition("=")[0]
        raise DataError(f"--set {change}: expected null to leave the stage out, or a field such as {key}.epochs=5")
    del entries[index]
    depth, kept = len(place) - 1, {}
    for at, line in lines.items():
        number = at[depth] if at[:depth] == place[:depth] and len(at) > depth else None
        if number == index:
            continue
        if isinstance(number, int) and number > index:
            at = (*at[:depth], number - 1, *at[depth + 1 :])
        kept[at] = line
    return kept


def _index(entries: list[Any], name: Any) -> int | None:  # noqa: ANN401 - plain YAML content
    """Place of the stage of that name."""
    return next((i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("name") == name), None)


def _enter(at: Any, key: int | str, change: str) -> Any:  # noqa: ANN401 - plain YAML content
    if isinstance(at, dict):
        return at.setdefault(key, {})
    if isinstance(at, list) and isinstance(key, int) and key < len(at):
        return at[key]
    raise DataError(f"--set {change}: there is no '{key}' to enter")


def dump_recipe(recipe: TrainRecipe) -> str:
    """The resolved recipe as YAML, every field written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
