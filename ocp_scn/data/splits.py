"""Rules that send a frame to a split, each decided from the frame alone."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

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
                f"--split {text!r}: {name!r} is not a new name; {TRAIN!r} has the frames of no other"
            )
        rules[name] = _parse_rule(text, rule, by, seed)
    return rules


@dataclass
class _Part:
    """Frames that stay together."""

    frames: int = 0
    elements: set[int] = field(default_factory=set)


def automatic_rules(
    ids: Sequence[tuple[str, int]], elements: Sequence[Collection[int]], *, by: str | None, seed: int
) -> tuple[dict[str, Rule], str]:
    """Return rules that keep frames for validation and test, where there are enough, and say what they do.

    A tenth of the frames each, in whole systems where there are several. Of few systems one is kept, however
    large. No element is lost to training.

    Args:
        ids: system and number of each frame.
        elements: atomic numbers of each frame.
        by: ``system`` or ``frame``; None for what suits the data.
        seed: of the choice.

    Raises:
        InputError: for whole systems of which there is only one.
    """
    systems = len({sid for sid, _ in ids})
    if by == "system" and systems < 2:
        raise InputError("--split-by system: there is one system; --split-by frame splits it")
    if len(ids) < _ENOUGH:
        return {}, f"no validation: {len(ids)} frames are too few to spare any, and all are for training"
    ways = [by] if by else ["system", "frame"] if systems >= _SEVERAL else ["frame"]
    for way in ways:
        parts: dict[str, _Part] = {}
        for (sid, fid), numbers in zip(ids, elements, strict=True):
            part = parts.setdefault(_key(sid, fid, way), _Part())
            part.frames += 1
            part.elements.update(numbers)
        held = _hold_out(parts, seed)
        if held:
            words = _words(held, len(parts), way, "" if by else _reason(systems))
            return {name: _rule(chosen, way) for name, chosen in held.items()}, words
    return {}, f"no validation: each {ways[-1]} has an element that no other has, and all are for training"


def _hold_out(parts: Mapping[str, _Part], seed: int) -> dict[str, set[str]]:
    """Return parts by name of their split: of a tenth of all frames together, or the smallest alone."""
    most = sum(part.frames for part in parts.values()) / 10
    having = Counter(element for part in parts.values() for element in part.elements)
    rest = sorted(parts, key=lambda key: (_uniform(key, seed), key))
    held: dict[str, set[str]] = {}

    def is_spared(key: str) -> bool:
        return all(having[element] > 1 for element in parts[key].elements)

    for split in ["val", "test"] if len(parts) >= _MANY else ["val"]:
        chosen, room = set[str](), most
        for key in rest:
            if parts[key].frames <= room and is_spared(key):
                chosen.add(key)
                having.subtract(parts[key].elements)
                room -= parts[key].frames
        if not chosen:
            chosen = set(sorted(filter(is_spared, rest), key=lambda key: parts[key].frames)[:1])
            having.subtract(element for key in chosen for element in parts[key].elements)
        if chosen:
            held[split] = chosen
        rest = [key for key in rest if key not in chosen]
    return held


def _reason(systems: int) -> str:
    if systems >= _SEVERAL:
        return ", as each system has an element that no other has"
    return f", as 'sid' and files name {systems} system{'s' * (systems > 1)}"


def _words(held: Mapping[str, set[str]], parts: int, by: str, reason: str) -> str:
    kept = " and ".join(f"{len(chosen)} for {name}" for name, chosen in held.items())
    if by == "system":
        return f"split by system: of {parts}, {kept}"
    alike = "frames of one system are similar, so errors are smaller than on a new system"
    return f"split by frame{reason}: of {parts}, {kept}; {alike}"


def _key(sid: str, fid: int, by: str) -> str:
    return sid if by == "system" else f"{sid}:{fid}"


def _rule(chosen: set[str], by: str) -> Rule:
    return lambda sid, fid: _key(sid, fid, by) in chosen


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
            return lambda sid, fid: _uniform(_key(sid, fid, by), seed) < fraction
    except ValueError:
        pass
    raise InputError(f"--split {text!r}; expected NAME=0.1, NAME=sids:a,b or NAME=every:10:5")


def _uniform(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the key and the seed alone."""
    return zlib.crc32(f"{seed}/{key}".encode()) / 2**32
