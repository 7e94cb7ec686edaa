"""The built wheel holds exactly our rooms, and runs where nothing else of the checkout lies."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
ROOMS = ("data", "export", "fusion", "pipelines")
PROJECT = ("pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the checkout in which other folders lie about, too."""
    copy = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(HOME / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PROJECT:
        shutil.copy(HOME / name, copy)
    for stray in ("tests", "scratch", "runs"):
        (copy / stray).mkdir()
        (copy / stray / "__init__.py").touch()
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=copy)
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel was installed into."""
    target = tmp_path_factory.mktemp("installed")
    run(*PIP, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel), cwd=target)
    return target


def run(*command, cwd, path=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_our_rooms_and_no_others(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOMS)
    for room in ROOMS:
        wanted = {str(path.relative_to(HOME)) for path in (HOME / room).rglob("*.py")}
        assert wanted <= set(names)


def test_wheel_holds_the_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"pipelines/live/web/{name}.html" for name in ("page", "login")} <= names


def test_wheel_holds_the_recipes_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {str(path.relative_to(HOME)) for path in (HOME / "pipelines" / "recipes").glob("*.yaml")}
    assert recipes
    assert recipes <= names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_installed_elsewhere(installed, tmp_path):
    script = installed / "bin" / "rgbt"
    assert "COMMAND" in run(sys.executable, str(script), "--help", cwd=tmp_path, path=installed)
    listed = run(sys.executable, str(script), "recipe", "list", cwd=tmp_path, path=installed)
    for recipe in (installed / "pipelines" / "recipes").glob("*.yaml"):
        assert recipe.stem in listed
    where = "import data.frame, pipelines.cli; print(data.frame.__file__, pipelines.cli.__file__)"
    for path in run(sys.executable, "-c", where, cwd=tmp_path, path=installed).split():
        assert path.startswith(str(installed))


def test_a_package_that_hides_ours_is_named(installed, tmp_path):
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion" / "__init__.py").touch()
    shutil.copy(installed / "fusion" / "errors.py", tmp_path / "fusion")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pipelines.cli import main; sys.exit(main(['--help']))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the package 'fusion'" in done.stderr
    assert done.stderr.count("\n") == 1
