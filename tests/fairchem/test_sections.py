"""Configurations that are none: files that are no YAML, and values where sections belong."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core.common.flags import flags

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.launcher import load_config
from ocp_scn.fairchem.v1.sections import check_sections

EXAMPLES = [Path("configs/s2ef/example/scn.yml"), Path("configs/is2re/example/scn.yml")]
WRONG = ("text", [1, 2], 3.5, True)
SECTIONS = (
    "optim",
    "task",
    "outputs",
    "loss_functions",
    "dataset",
    "normalizer",
    "transforms",
    "train",
    "val",
)


def load(path: Path) -> dict[str, Any]:
    words = ["--mode", "train", "--config-yml", str(path), "--cpu", "--run-dir", str(path.parent)]
    args, overrides = flags.get_parser().parse_known_args(words)
    return load_config(args, overrides)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"3\n",
        b"null\n",
        b"- 1\n- 2\n",
        b"a:\n\tb: 1\n",
        b"a: [1, 2\n",
        b"a: 1\n---\nb: 2\n",
        b"a: 1\na: 2\n",
        b"a: \0\n",
        b"a: \xff\xfe\n",
        b"a: !foo 1\n",
        b"a: !!python/object/apply:os.getcwd []\n",
        b"? [1, 2]\n: 3\n",
        b"includes: base.yml\n",
        b"includes: [none.yml]\n",
        b"a: " + 2000 * b"[" + 2000 * b"]",
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content):
    (tmp_path / "mine.yml").write_bytes(content)
    with pytest.raises(InputError, match=r"--config-yml .*mine\.yml cannot be read: ") as caught:
        load(tmp_path / "mine.yml")
    assert "\n" not in str(caught.value)


def places(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every section that is checked."""
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if key in SECTIONS:
            yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_value_where_a_section_belongs(example):
    config = yaml.safe_load(example.read_text())
    check_sections(config)
    found = list(places(config))
    assert len(found) > 6
    for path in found:
        for wrong in WRONG:
            changed = copy.deepcopy(config)
            section = changed
            for key in path[:-1]:
                section = section[key]
            section[path[-1]] = wrong
            with pytest.raises(InputError, match=f"{path[-1]}.*expected a (list of )?section"):
                check_sections(changed)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"src": 3}, "dataset.train.src=3; expected a path"),
        ({"src": ["a", 3]}, "dataset.train.src=.*; expected a path or a list of paths"),
        ({"format": None}, "dataset.train.format=None; expected a name"),
        ({"transforms": {"x": 1}}, "dataset.train.transforms has 'x'; expected normalizer or"),
        ({"transforms": {"normalizer": {"energy": 3}}}, "dataset.train.transforms.normalizer.energy=3;"),
    ],
)
def test_sources_and_transforms(split, message):
    with pytest.raises(InputError, match=message):
        check_sections({"dataset": {"train": split}})


def test_milestones():
    with pytest.raises(InputError, match=r"optim\.lr_milestones='text'; expected a list of steps"):
        check_sections({"optim": {"lr_milestones": "text"}})
