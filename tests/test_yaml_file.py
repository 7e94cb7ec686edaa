import errno
import os
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from data.errors import DataError
from data.yaml_file import atomic, read_model, write_model


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"] = "a"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int
    size: tuple[int, int] | None = (1, 2)
    inner: Inner = Inner()


def error_of(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_model(path, Outer)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}")


def test_round_trip_keeps_what_was_set_even_when_it_is_the_default(tmp_path):
    path = tmp_path / "x.yaml"
    for model in (Outer(count=1), Outer(count=2, size=None), Outer(count=3, size=(1, 2), inner=Inner(kind="b"))):
        write_model(path, model)
        assert read_model(path, Outer) == model
    assert "size: [1, 2]" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count: 1\ncuont: 2\n", ":2: unknown key 'cuont'; did you mean 'count'?"),
        ("count: 1\ninner:\n  kind: c\n", ":3: inner.kind: input should be 'a' or 'b' (found 'c')"),
        ("size: [1, 2]\n", ":1: 'count' is missing"),
        ("count: 1\nsize: [1]\n", ":2: 'size.1' is missing"),
        ("count: [\n", ":2: not valid YAML"),
        ("count: !!python/object:os.system {}\n", ":1: not valid YAML"),
        ("", ": the file: input should be"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, text, expected):
    assert error_of(tmp_path, text).startswith(expected)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"none\.yaml: no such file"):
        read_model(tmp_path / "none.yaml", Outer)


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="No space"), atomic(path, "w") as file:
        file.write("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.yaml"]


def test_atomic_makes_folders_and_ordinary_permissions(tmp_path):
    path = tmp_path / "a" / "b.bin"
    with atomic(path) as file:
        file.write(b"1")
        assert not path.exists()
    other = tmp_path / "plain"
    other.write_bytes(b"")
    assert path.read_bytes() == b"1" and path.stat().st_mode == other.stat().st_mode
