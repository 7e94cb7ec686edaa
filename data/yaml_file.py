"""YAML files that pydantic checks: an error names the file, the line and the field."""

import difflib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import DataError
from data.text_file import read_text

MAX_YAML = 1 << 23
"""Most bytes of a YAML file: a card that lists 100 000 ids by itself has 2 MiB."""
MAX_VALUES = 500_000
MAX_DEPTH = 50

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


def read_yaml(path: Path) -> tuple[Any, dict[Location, int]]:
    """Return the plain content of a YAML file and the line (from 1) of every field.

    Only plain YAML is read: a tag such as ``!!python/object`` is an error, never an object, and so are references that
    grow when they are followed.

    Raises:
        DataError: the file cannot be read, or is not plain YAML.
    """
    return parse_yaml(read_text(path, "the YAML file", MAX_YAML), str(path))


def parse_yaml(text: str, where: str) -> tuple[Any, dict[Location, int]]:
    """As ``read_yaml``; ``where`` the text is from stands first in errors."""
    loader = yaml.SafeLoader("")
    try:
        _refuse_tags(text, where)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _refuse_growth(root, where)
        return loader.construct_document(root), dict(_lines(root, ()))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DataError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except RecursionError:
        raise DataError(f"{where}: not valid YAML (nested too deeply)") from None
    except (ValueError, OverflowError) as error:  # the 99th of a month, a number of thousands of digits
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not valid YAML ({error})") from None
    finally:
        loader.dispose()


def _refuse_tags(text: str, where: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None)
        if tag is not None:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise DataError(f"{where}{line}: not valid YAML (the tag {tag:.60}: only plain values are read)")


def _refuse_growth(root: yaml.Node, where: str) -> None:
    """Aliases are followed here and when models are built: nine lines of nine aliases each stand for 10⁹ values."""
    count, waiting = 0, [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise DataError(f"{where}: not valid YAML (aliases or nesting make more than {MAX_VALUES} values of it)")
        if isinstance(node, yaml.MappingNode):
            waiting += [(one, depth + 1) for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(one, depth + 1) for one in node.value]


def _lines(node: yaml.Node, at: Location) -> Iterator[tuple[Location, int]]:
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key.value, str) else str(key.tag)
            for place, line in _lines(value, (*at, name)):
                yield place, key.start_mark.line + 1 if place == (*at, name) else line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*at, index))


def validate(
    content: Any,  # noqa: ANN401 - what YAML holds
    model: type[Model],
    path: Path | str,
    lines: dict[Location, int] | None = None,
) -> Model:
    """Build ``model`` from plain content; DataError names file, line, field, what was found and expected."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DataError(describe(error, model, path, lines or {})) from None


def describe(error: ValidationError, model: type[BaseModel], path: Path | str, lines: dict[Location, int]) -> str:
    """One line for the first problem of a pydantic error, with the count of further ones."""
    problems = error.errors(include_url=False)
    # A misspelt key shows twice, as unknown and as missing: the first of the two tells more.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    at = tuple(first["loc"])
    # Discriminated unions put the tag into the location; drop what the file does not hold, from the end.
    known = next((at[:n] for n in range(len(at), -1, -1) if at[:n] in lines), ())
    line = f":{lines[known]}" if known in lines else ""
    field = ".".join(f"{part!s:.80}" for part in at) or "the file"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{path}{line}: unknown key '{field}'{_suggestion(at, model)}{more}"
    if first["type"] == "missing":
        return f"{path}{line}: '{field}' is missing{more}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = "" if first["type"] == "value_error" else f" (found {first['input']!r:.80})"
    return f"{path}{line}: {field}: {message[:1].lower()}{message[1:]}{given}{more}"


def _suggestion(at: Location, model: type[BaseModel]) -> str:
    names = sorted(_keys(model.model_json_schema()))
    close = difflib.get_close_matches(str(at[-1])[:80], names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _keys(schema: Any) -> Iterator[str]:  # noqa: ANN401 - JSON schema is plain JSON
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from _keys(value)


def read_model(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a pydantic model; DataError names file, line and field."""
    content, lines = read_yaml(path)
    return validate(content, model, path, lines)


def dump_model(model: BaseModel) -> str:
    """Return a pydantic model as YAML text; fields that nobody set stay out."""
    content = model.model_dump(mode="json", exclude_unset=True)
    # Flow style None: sizes and matrix rows on one line, the rest in blocks.
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return text


def write_model(path: Path, model: BaseModel) -> None:
    """Write a pydantic model as YAML, atomically."""
    with atomic(path, "w") as file:
        file.write(dump_model(model))


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on success flush it to disk and rename it, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
