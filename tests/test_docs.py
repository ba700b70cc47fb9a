"""Every command in README and docs is one that the project has, with options that it takes."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairchem.core.common.flags import flags

import ocp_scn_cli
from ocp_scn import runs
from ocp_scn.data import __main__ as data
from ocp_scn.fairchem.v1.checks import check_model
from ocp_scn.fairchem.v1.launcher import load_config
from ocp_scn.trained import to_fairchem1
from tests.calculations import write_calculations
from tests.test_calculator import trained

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of each fenced block in a language."""
    pattern = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [(page.name, *block) for page in PAGES for block in pattern.findall(page.read_text())]
    return [(page, text) for page, kind, text in found if kind == language]


def commands() -> list[tuple[str, list[str]]]:
    """Return (page, words) of each command line in the fenced blocks of shell commands."""
    found = []
    for page, text in [*blocks("bash"), *blocks("")]:
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):  # of the environment
                del words[0]
            if words and (words[0] in ("make", "ocp-scn") or words[0].endswith("python")):
                found.append((page, words))
    return found


COMMANDS = commands()
WRITTEN = "datasets/mine/train.yml"  # by convert


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The configuration that convert writes for a user's calculations."""
    folder = tmp_path_factory.mktemp("own")
    source = write_calculations(folder / "mine.extxyz", 12)
    assert data.main(["convert", str(source), str(folder / "mine")]) == 0
    return str(folder / "mine/train.yml")


def test_pages_have_commands() -> None:
    """The search below finds the commands, of all kinds."""
    kinds = {" ".join(words[1:3]) for _, words in COMMANDS if words[0].endswith("python")}
    assert {"main.py --mode", "-m ocp_scn.data", "-m ocp_scn.report"} <= kinds
    assert {words[1] for _, words in COMMANDS if words[0] == "make"} >= {"demo", "test"}
    assert {words[1] for _, words in COMMANDS if words[0] == "ocp-scn"} >= {"train", "configs", "data"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{p}-{' '.join(w[1:4])}" for p, w in COMMANDS])
def test_command(page: str, words: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The command's program, options and files exist."""
    words = [request.getfixturevalue("written") if word == WRITTEN else word for word in words]
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page}: {done.stderr}"
    elif words[0] == "ocp-scn":
        check_ocp_scn(*words[1:])
    elif words[1] == "main.py":
        words, finetune = list(words), None
        if "--finetune" in words:  # an option of main.py
            place = words.index("--finetune")
            del words[place : place + 2]
            finetune = str(tmp_path / "checkpoint.pt")
            torch.save(to_fairchem1(trained()), finetune)
        args, overrides = flags.get_parser().parse_known_args(words[2:])
        args.finetune = finetune
        check_model(load_config(args, overrides)["model"])
    else:
        check_module(words[2], words[3:])


def check_ocp_scn(name: str, *words: str) -> None:
    """Check that a command of ``ocp-scn`` takes the words, and that its configuration is there."""
    if name == "--version":
        return
    module = ocp_scn_cli.COMMANDS[name].module
    if "--config" in words and words[words.index("--config") + 1].endswith(".yaml"):
        return  # of fairchem 2, in whose tests they are
    if module != "ocp_scn.runs" and not (name == "predict" and "--config" in words):
        check_module(module.removesuffix(".__main__"), list(words))
        return
    args, settings = runs.build_parser(name).parse_known_args(words)
    if name == "finetune":
        del args.checkpoint  # no page has one
    if runs.line_of(ROOT / args.config) == 1:  # those of fairchem 2 are in its tests
        given = {key: value for key, value in vars(args).items() if key not in ("config", "report")}
        words = ["--mode", runs.MODES[name], "--config-yml", str(args.config), *runs.words_of(given)]
        assert load_config(flags.get_parser().parse_known_args(words)[0], settings)


def check_module(module: str, words: list[str]) -> None:
    """Check that the command line of ``python -m module`` takes the words."""
    if module in ("pip", "venv"):  # not even looked for: setuptools then leaves distutils to Python
        return
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"no command python -m {module}"
    is_package = spec.submodule_search_locations is not None
    found = importlib.import_module(f"{module}.__main__" if is_package else module)
    found.build_parser().parse_args(words)


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_block(page: str, text: str) -> None:
    """The examples in Python run."""
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}: {done.stderr}"


def test_settings_page() -> None:
    """The table of settings is that of the declarations."""
    script = runpy.run_path(str(ROOT / "tools/settings.py"))
    assert script["PAGE"].read_text() == script["page"](), "run python tools/settings.py"


def test_links() -> None:
    """Links between pages and to files lead somewhere."""
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
