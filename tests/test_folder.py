"""A folder is there whole, or not at all."""

import pytest

from fusion.folder import _replace, atomic_folder


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_written_whole(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "sub" / "x").read_text() == "1"
    assert names(tmp_path / "a") == ["b"]


def test_permissions_are_those_of_mkdir(tmp_path):
    (tmp_path / "plain").mkdir()
    with atomic_folder(tmp_path / "b"):
        pass
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_replaces_the_old_one_as_a_whole(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stale").write_text("")
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "new").write_text("")
    assert names(tmp_path / "b") == ["new"]
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_failure_leaves_the_old_one_and_no_rubbish(tmp_path, error):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("kept")
    with pytest.raises(type(error)), atomic_folder(tmp_path / "b") as folder:
        (folder / "new").write_text("")
        raise error
    assert (tmp_path / "b" / "old").read_text() == "kept"
    assert names(tmp_path) == ["b"]


def test_failed_rename_brings_the_old_one_back(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("kept")
    with pytest.raises(FileNotFoundError):
        _replace(tmp_path / "was-never-written", tmp_path / "b")
    assert (tmp_path / "b" / "old").read_text() == "kept"
    assert names(tmp_path) == ["b"]


def test_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").write_text("")
    with pytest.raises(FileExistsError, match="name another path"), atomic_folder(tmp_path / "b", marker="m"):
        pass
    assert names(tmp_path / "b") == ["holiday.jpg"]
    with atomic_folder(tmp_path / "empty", marker="m") as folder:
        (folder / "m").write_text("1")
    with atomic_folder(tmp_path / "empty", marker="m") as folder:
        (folder / "m").write_text("2")
    assert (tmp_path / "empty" / "m").read_text() == "2"


def test_file_in_the_way_and_link(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"), atomic_folder(tmp_path / "f"):
        pass
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "x").write_text("")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["x"]
