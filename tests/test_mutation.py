"""The settings of mutation testing, and what it changes."""

from __future__ import annotations

import configparser
import importlib.util
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = """
def clipped(x: int | None, limit: int = 3) -> int:
    if x is None:
        raise ValueError(f"x={x}; expected a number below {limit + 1}")
    return sum((a for a, _ in zip([min(x, limit)], "a", strict=True)), start=0)
"""


def test_settings() -> None:
    """Patterns have files, and the tests that are named are there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for pattern, words in config["mutation.tests"].items():
        assert list(ROOT.glob(pattern)), pattern
        for word in words.split():
            path, _, name = word.partition("::")
            assert (ROOT / path).exists(), word
            assert not name or f"def {name}(" in (ROOT / path).read_text(), word
    for word in config["mutation"]["without"].split():
        path, name = word.split("::")
        assert f"def {name}(" in (ROOT / path).read_text(), word


def test_mutants(tmp_path, monkeypatch) -> None:
    """All that computes is changed; types, texts of errors and guards are not."""
    pytest.importorskip("mutmut", reason="only mutation testing needs it")
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "tools" / "mutation.py")
    mutation = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutation", mutation)
    spec.loader.exec_module(mutation)
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (tmp_path / "clipped.py").write_text(SOURCE)
    mutants = mutation.mutants_of("clipped.py", None, random.Random(0))
    made = {(m.line, m.after) for m in mutants}
    assert (2, "def clipped(x: int | None, limit: int = 4) -> int:") in made
    assert (3, "if x is not None:") in made
    assert any("min(x, )" in after for _, after in made)
    assert {line for line, _ in made} == {2, 3, 5}
    assert all("strict=True" in after for line, after in made if line == 5 and "zip" in after)
    few = mutation.mutants_of("clipped.py", 2, random.Random(0))
    assert len(few) == 2
    assert set(few) <= set(mutants)
