"""Options that would have no effect: refused, so that nobody believes that they had one."""

import argparse
from collections.abc import Mapping
from typing import Literal

from pipelines.live.site import RigOptions
from pipelines.live.sources import RECORDINGS, kind_of
from pipelines.live.usage import UsageError

_OF_CAMERAS = {
    "max_wait": "frames of a recording wait for their partner as long as it takes",
    "every_frame": "of recordings every frame is answered anyway",
    "give_up_after": "a recording that cannot be read ends the run at once",
    "frozen_after": "a recording may stand still for as long as it does",
}
"""Option → what holds of recordings instead."""
_OF_PAIRS = ("max_skew", "max_wait", "hold")
_OF_TASK: dict[str, Literal["detect", "segment"]] = {"score": "detect", "rle": "segment"}
_WITH_JSON = ("jsonl", "mqtt", "webhook")


def shown_option(option: str, rig: str | None) -> str:
    """How people know an option: as it is typed, or as the field of a rig in the site's file."""
    return f"--{option.replace('_', '-')}" if rig is None else f"rigs.{rig}.{option}"


def refuse_idle(args: argparse.Namespace, rigs: Mapping[str, RigOptions], site: str | None) -> None:
    """Refuse what no source and no sink of the rigs looks at.

    Args:
        args: What was typed of all rigs.
        rigs: Name → its options.
        site: Path of the file that names the rigs; None: they were typed.

    Raises:
        UsageError: one line that says what the option is for.
        DataError: a recording is not there.
    """
    of_rigs = {rig: _kinds(options) for rig, options in rigs.items()}
    kinds = set[str]().union(*of_rigs.values())
    if kinds and kinds <= RECORDINGS:
        for option in ("every_frame", "give_up_after", "frozen_after"):
            if getattr(args, option) not in (None, False):
                raise UsageError(f"{shown_option(option, None)}: only for cameras; {_OF_CAMERAS[option]}")
    if kinds and args.fps is not None and "folder" not in kinds:
        raise UsageError("--fps: only for folders of pictures; cameras and video files bring their own times")
    for rig, options in rigs.items():
        name, where = (None, "") if site is None else (rig, f"{site}: ")
        if options.max_wait is not None and of_rigs[rig] and of_rigs[rig] <= RECORDINGS:
            raise UsageError(f"{where}{shown_option('max_wait', name)}: only for cameras; {_OF_CAMERAS['max_wait']}")
        for option in _OF_PAIRS:
            if (
                getattr(options, option) not in (None, False)
                and of_rigs[rig]
                and None in (options.rgb, options.thermal)
            ):
                both = " and ".join(shown_option(sensor, name) for sensor in ("rgb", "thermal"))
                raise UsageError(f"{where}{shown_option(option, name)}: only for pairs; give both {both}")
        if options.rle and not any(getattr(options, option) for option in _WITH_JSON):
            sinks = ", ".join(shown_option(option, name) for option in _WITH_JSON)
            raise UsageError(f"{where}{shown_option('rle', name)}: only for answers as JSON; add one of {sinks}")


def refuse_idle_for(task: str, rigs: Mapping[str, RigOptions], site: str | None) -> None:
    """Refuse options that the bundle's task has no use for; UsageError says which task has."""
    for rig, options in rigs.items():
        name, where = (None, "") if site is None else (rig, f"{site}: ")
        for option, wanted in _OF_TASK.items():
            if option in options.model_fields_set and getattr(options, option) is not False and task != wanted:
                raise UsageError(
                    f"{where}{shown_option(option, name)}: only for bundles that {wanted}; this one is made to {task}"
                )


def _kinds(options: RigOptions) -> set[str]:
    return {kind_of(text) for text in (options.rgb, options.thermal) if text is not None}
