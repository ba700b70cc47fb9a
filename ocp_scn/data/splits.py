"""Rules that send a frame to a split, each decided from the frame alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from ocp_scn.errors import InputError

TRAIN = "train"
Rule = Callable[[str, int], bool]


def parse_rules(texts: Sequence[str], *, by: str, seed: int) -> dict[str, Rule]:
    """Return the rules written as NAME=RULE, in order.

    ``NAME=0.1`` takes a tenth of the systems (``by="system"``) or frames (``by="frame"``) at
    random, ``NAME=sids:a,b`` the named systems, ``NAME=every:10:5`` the frames whose number leaves
    5 when divided by 10.

    Raises:
        InputError: for a rule that cannot be read.
    """
    rules: dict[str, Rule] = {}
    for text in texts:
        name, _, rule = text.partition("=")
        if not name.isidentifier() or name == TRAIN or name in rules:
            raise InputError(
                f"--split {text!r}: {name!r} is not a new name; {TRAIN!r} is what other splits leave"
            )
        rules[name] = _parse_rule(text, rule, by, seed)
    return rules


def parts_systems(texts: Sequence[str], by: str) -> bool:
    """Tell whether a rule takes a random share of whole systems."""
    return by == "system" and any(":" not in text.partition("=")[2] for text in texts)


def split_of(sid: str, fid: int, rules: dict[str, Rule]) -> str:
    """Return the first split whose rule takes the frame, else ``train``."""
    return next((name for name, takes in rules.items() if takes(sid, fid)), TRAIN)


def _parse_rule(text: str, rule: str, by: str, seed: int) -> Rule:
    kind, _, rest = rule.partition(":")
    try:
        if kind == "sids" and rest:
            names = set(rest.split(","))
            return lambda sid, fid: sid in names
        if kind == "every":
            modulus, remainder = map(int, rest.split(":"))
            if modulus > remainder >= 0:
                return lambda sid, fid: fid % modulus == remainder
        fraction = float(rule)
        if 0 < fraction < 1:
            return lambda sid, fid: _uniform(sid if by == "system" else f"{sid}:{fid}", seed) < fraction
    except ValueError:
        pass
    raise InputError(f"--split {text!r}; expected NAME=0.1, NAME=sids:a,b or NAME=every:10:5")


def _uniform(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the key and the seed alone."""
    return zlib.crc32(f"{seed}/{key}".encode()) / 2**32
