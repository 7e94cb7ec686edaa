"""Recipes on disk: shipped by name, the user's own by path, variants of a parent, and changes from the command line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError

from data.augment import AugmentSpec
from data.errors import DataError
from data.yaml_file import Location, describe, read_yaml
from fusion.errors import FusionError
from fusion.recipe import Recipe

PARENT = "extends"
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
    sibling = path.parent / f"{parent}.yaml"
    own = sibling.exists() and sibling != path  # a user's staged.yaml may extend the shipped one of that name
    inherited, _ = _read(sibling if own else find_recipe(str(parent)), (*children, path))
    changed = content.get("stages")
    if isinstance(changed, dict):
        content["stages"], lines = _change_stages(inherited.get("stages"), changed, path, lines)
    return _merge(inherited, content), lines


def _change_stages(
    stages: Any,  # noqa: ANN401 - plain YAML content
    changes: Mapping[str, Any],
    path: Path,
    lines: dict[Location, int],
) -> tuple[list[Any], dict[Location, int]]:
    """Change a parent's stages by name: null leaves one out, ``before: NAME`` puts a new one there.

    Return them with the lines at their new places.
    """
    listed = [dict(stage) for stage in stages] if isinstance(stages, list) else []
    for name, change in changes.items():
        names = [stage.get("name") for stage in listed]
        if name in names:
            at = names.index(name)
            listed[at] = {} if change is None else _merge(listed[at], change)
        elif isinstance(change, Mapping) and change.get("before") in names:
            listed.insert(
                names.index(change["before"]), {"name": name, **{k: change[k] for k in change if k != "before"}}
            )
        else:
            raise DataError(
                f"{path}:{lines.get(('stages', name))}: stages.{name}: the parent has no such stage; it has "
                f"{', '.join(map(str, names))}; a new one says before: one of them"
            )
    kept = [stage for stage in listed if stage]
    places = {stage.get("name"): number for number, stage in enumerate(kept)}
    moved = {("stages", places[at[1]], *at[2:]) if at[:1] == ("stages",) and at[1:2] and at[1] in places else at: line
             for at, line in lines.items()}  # fmt: skip
    return kept, moved


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
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise DataError(f"--set {change}: '{text}' is not a YAML value") from None
    parts: list[Any] = [int(part) if part.isdigit() else part for part in place.split(".")]
    *parents, last = parts
    at: Any = content
    for depth, key in enumerate(parents):
        if isinstance(at, list) and (found := _index(at, key)) is not None:
            key = parents[depth] = found
        at = _enter(at, key, change)
    if isinstance(at, list) and not (isinstance(last, int) and last < len(at)):
        raise DataError(f"--set {change}: there is no entry {last}, the list has {len(at)}")
    if not isinstance(at, (dict, list)):
        raise DataError(f"--set {change}: '{parents[-1]}' is a single value, it has no '{last}'")
    at[last] = value
    changed = (*parents, last)
    return {where: line for where, line in lines.items() if where[: len(changed)] != changed}


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
