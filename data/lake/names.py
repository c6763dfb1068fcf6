"""Names in the lake: snapshots, parts and records, and what to do about the file with a name if it is damaged."""

from __future__ import annotations

import re
from typing import get_args

from data.config import DEFAULT_PROFILE, FilterProfile
from data.errors import InputError
from data.schema import DATASETS

BEGUN = "_begun.json"
MANIFEST = "_manifest.json"

_PART_NAME = re.compile(r"part-(?:(\d+)-)?(\d{5,})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._-]+)?")


def base_snapshot(snapshot: str) -> str:
    """The name without a variant: ``2026-11@gopher`` shares links, pages and text with ``2026-11``."""
    return snapshot.partition("@")[0]


def check_variant(snapshot: str, profile: FilterProfile) -> str:
    """The snapshot's name; raises InputError unless it goes with the profile of select.

    Every profile but webtext makes a variant, so that a plain name always means webtext. A variant that is called like
    a profile has that profile.
    """
    base, _, variant = snapshot.partition("@")
    if not variant and profile != DEFAULT_PROFILE:
        raise InputError(f"snapshot {snapshot}: the profile {profile} makes a variant; name it {base}@{profile}")
    if variant in get_args(FilterProfile) and variant != profile:
        raise InputError(
            f"snapshot {snapshot} is named like the profile {variant}, but its profile is {profile}; "
            f"choose the profile {variant} or another name"
        )
    return snapshot


def check_name(what: str, name: str) -> str:
    """The name of a snapshot or run; raises InputError unless it is safe as one component of a path."""
    if not is_name(name):
        raise InputError(f"{name!r} is not a valid {what} name: use letters, digits, . - _ and @ before a variant")
    return name


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def part_name(index: int, round_: int = 0) -> str:
    """``part-00012``, or ``part-1-00012`` in round 1. Pages has a round for each redirect to another domain."""
    return f"part-{index:05d}" if round_ == 0 else f"part-{round_}-{index:05d}"


def parse_part_name(name: str) -> tuple[int, int]:
    """The round and the index in a name from ``part_name``."""
    match = _PART_NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1] or 0), int(match[2])


def is_part_name(name: str) -> bool:
    return _PART_NAME.fullmatch(name) is not None


def repair(names: tuple[str, ...]) -> str:
    """What to do about a damaged or missing file, at the lowest cost: a dataset is mended part by part."""
    copy = "restore it from a copy"
    if names[0] not in DATASETS or len(names) < 3:
        return copy
    label = "/".join(names[:2])
    if names[2] == MANIFEST:
        advice = "remove this file"
    elif names[2] == BEGUN:
        advice = f"remove it and {label}/{MANIFEST}, if that exists"
    else:
        advice = f"remove it and {label}/{MANIFEST}, if that exists: only its part is made again"
    return f"{copy}, or {advice}, and run the same command again; later stages stay done if the digest stays the same"
