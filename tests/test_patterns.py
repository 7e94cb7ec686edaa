import pytest
from pydantic import TypeAdapter, ValidationError

from data.patterns import Pattern, fill, id_from_name


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("1.jpg", "visible/{id}.jpg", "1"),
        ("visible/a/1.jpg", "visible/{id}.jpg", "a/1"),
        ("a/1.jpg", "visible/{id}.jpg", "a/1"),
        ("1.png", "visible/{id}.jpg", None),
        ("s/s_rgb.png", "{id}/{id}_rgb.png", "s"),
        ("s/t_rgb.png", "{id}/{id}_rgb.png", "s/t"),
        ("rgb.png", "{id}/rgb.png", None),
        ("x+y.jpg", "a.b/{id}.jpg", "x+y"),
        ("train/vi/00001D.png", "{dir}/vi/{name}.png", "train/00001D"),
        ("set00/V000/visible/I00001.jpg", "{dir}/visible/{name}.jpg", "set00/V000/I00001"),
        ("00001D.png", "{dir}/vi/{name}.png", None),
        ("images/1.png", "images/{name}.png", "1"),
        ("images/a/1.png", "images/{name}.png", None),
    ],
)
def test_ids_from_names(name, pattern, expected):
    assert id_from_name(name, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "one", "path"),
    [
        ("visible/{id}.jpg", "train/1", "visible/train/1.jpg"),
        ("{dir}/vi/{name}.png", "train/1", "train/vi/1.png"),
        ("{dir}/visible/{name}.jpg", "set00/V000/I00001", "set00/V000/visible/I00001.jpg"),
        ("Annotations/{name}.xml", "train/010001", "Annotations/010001.xml"),
        ("x/{dir}/vi/{name}.png", "1", "x/vi/1.png"),
    ],
)
def test_an_id_fills_a_pattern_and_comes_back_from_it(pattern, one, path):
    assert fill(pattern, one) == path
    if "{id}" in pattern or ("{dir}" in pattern and "/" in one):
        assert id_from_name(path, pattern) == one


@pytest.mark.parametrize("text", ["a.png", "{dir}/a.png", "{id", "{id}/{idx}.png", "{ID}.png"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValidationError, match=r"a path pattern holds \{id\}"):
        TypeAdapter(Pattern).validate_python(text)
