"""Rules that send a frame to a split, each decided from the frame alone."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ocp_scn.errors import InputError

TRAIN = "train"
NO_SPLIT = "none"  # in place of rules: everything is for training
Rule = Callable[[str, int], bool]
# Frames that can spare some; systems that are several; systems (or frames) that can spare a test set, too.
_ENOUGH, _SEVERAL, _MANY = 10, 3, 10


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


def automatic_rules(
    ids: Sequence[tuple[str, int]], *, by: str | None, seed: int
) -> tuple[dict[str, Rule], str]:
    """Return rules that keep frames for validation and test, where there are enough, and say what they do.

    A tenth of the frames each, in whole systems where there are several. Of few systems one is kept, however
    large.

    Args:
        ids: system and number of each frame.
        by: ``system`` or ``frame``; None for what suits the data.
        seed: of the choice.

    Raises:
        InputError: for whole systems of which there is only one.
    """
    systems = Counter(sid for sid, _ in ids)
    if by == "system" and len(systems) < 2:
        raise InputError("--split-by system: there is one system; --split-by frame parts it")
    if len(ids) < _ENOUGH:
        return {}, f"no validation: {len(ids)} frames are too few to spare any, and all are for training"
    whole = by == "system" or (by is None and len(systems) >= _SEVERAL)
    parts = systems if whole else Counter(f"{sid}:{fid}" for sid, fid in ids)
    held = _hold_out(parts, ["val", "test"] if len(parts) >= _MANY else ["val"], seed)
    rules = {name: _rule(chosen, whole=whole) for name, chosen in held.items()}
    kept = " and ".join(f"{len(chosen)} for {name}" for name, chosen in held.items())
    if whole:
        return rules, f"split by system: of {len(systems)}, {kept}"
    few = "" if by else f", as 'sid' and files name {len(systems)} system{'s' * (len(systems) > 1)}"
    return rules, (
        f"split by frame{few}: of {len(ids)}, {kept}; frames of one system are alike, and errors smaller "
        "than on a new one"
    )


def _hold_out(parts: Mapping[str, int], names: Sequence[str], seed: int) -> dict[str, set[str]]:
    """Return for each name parts that have a tenth of all frames together, or the smallest part alone."""
    most = sum(parts.values()) / 10
    rest = sorted(parts, key=lambda part: (_uniform(part, seed), part))
    held: dict[str, set[str]] = {}
    for name in names:
        chosen: set[str] = set()
        size = 0
        for part in rest:
            if size + parts[part] <= most:
                chosen.add(part)
                size += parts[part]
        held[name] = chosen or {min(rest, key=parts.__getitem__)}
        rest = [part for part in rest if part not in held[name]]
    return held


def _rule(chosen: set[str], *, whole: bool) -> Rule:
    return lambda sid, fid: (sid if whole else f"{sid}:{fid}") in chosen


def parts_systems(texts: Sequence[str], by: str) -> bool:
    """Tell whether a rule takes a random share of whole systems."""
    return by == "system" and any(":" not in text.partition("=")[2] for text in texts)


def split_of(sid: str, fid: int, rules: Mapping[str, Rule]) -> str:
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
