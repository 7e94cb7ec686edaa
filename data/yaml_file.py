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

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


def read_yaml(path: Path) -> tuple[Any, dict[Location, int]]:
    """Return the plain content of a YAML file and the line (from 1) of every field.

    Only plain YAML is read: a tag such as ``!!python/object`` is an error, never an object.

    Raises:
        DataError: the file cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    return content, dict(_lines(root, ())) if root is not None else {}


def _lines(node: yaml.Node, at: Location) -> Iterator[tuple[Location, int]]:
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for place, line in _lines(value, (*at, key.value)):
                yield place, key.start_mark.line + 1 if place == (*at, key.value) else line
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
    field = ".".join(str(part) for part in at) or "the file"
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
    close = difflib.get_close_matches(str(at[-1]), names, n=1)
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
