"""The deployment files name what is really there; no container engine is needed to see that."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from export.bundle_info import BundleInfo
from pipelines.cli import _parser

HOME = Path(__file__).parent.parent
DEPLOY = HOME / "deploy"


def accepted(words):
    return callable(_parser(words).parse_args(words).run)


@pytest.mark.parametrize("name", ["edge.Dockerfile", "train.Dockerfile"])
def test_images_copy_what_the_wheel_needs(name):
    lines = (DEPLOY / name).read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "data", "export", "fusion", "pipelines"}
    assert all((HOME / source).exists() for source in copied)
    ignored = (HOME / ".dockerignore").read_text().split()
    assert not copied & set(ignored)


def test_only_the_training_image_brings_torch():
    assert "[train]" in (DEPLOY / "train.Dockerfile").read_text()
    assert "train" not in (DEPLOY / "edge.Dockerfile").read_text()


def test_compose_runs_a_command_that_exists():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["live"]
    assert accepted(service["command"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    mounted = {re.search(r":(/\w+)(:ro)?$", volume)[1] for volume in service["volumes"]}
    for word in service["command"]:
        path = word.rpartition("=")[2]
        assert not path.startswith("/") or f"/{Path(path).parts[1]}" in mounted


def test_commands_of_the_readme_are_accepted():
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines = [line for line in lines if "docker build" not in line]
    called = re.compile(r"(?:bin/rgbt|rgbt-fusion:(?:edge-cuda|edge|train)) (.+)")
    found = [match[1] for line in lines if (match := called.search(line))]
    assert len(found) >= 5
    for command in found:
        assert accepted(shlex.split(command, comments=True)), command


def test_readme_explains_every_field_of_a_bundle():
    text = (DEPLOY / "README.md").read_text()
    for field in BundleInfo.model_fields:
        assert f"`{field}`" in text
