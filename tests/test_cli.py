"""The command ``ocp-scn``: every command answers, helps alike, and says in one line what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fairchem.core.common.flags import flags

from ocp_scn import experiments, runs
from ocp_scn.fairchem.v1.launcher import load_config
from ocp_scn_cli import COMMANDS, main
from tests import HANG

ROOT = Path(__file__).parents[1]


def refused(capsys, *words: str) -> str:
    """Return the one line with which a command refuses its words."""
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"]])
def test_what_needs_no_package_loads_none(words):
    program = (
        f"import sys, ocp_scn_cli; status = ocp_scn_cli.main({words}); "
        "assert not {'ocp_scn', 'torch', 'fairchem', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == (2 if words == ["trian"] else 0), done.stderr
    assert "Traceback" not in done.stderr


# A torch whose import takes as long as the tests may: a signal then comes while it is loaded.
TORCH = """
import os, pathlib, time
pathlib.Path(os.environ["BEGUN"]).touch()
try:
    time.sleep({})
except BaseException:
    pass
"""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "words", [["main.py", "--mode", "train", "--config-yml", "a.yml"], ["-m", "ocp_scn_cli", "viz"]]
)
def test_a_signal_while_modules_are_loaded(words, number, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH.format(HANG))
    begun = tmp_path / "begun"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "BEGUN": str(begun)}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + HANG
    while not begun.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=HANG)
    assert printed == f"ended by {number.name}: nothing has begun\n"
    assert process.returncode == 128 + number


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name:<10}  {command.text}\n" in text
    assert "--KEY=VALUE" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_helps_are_alike(name, capsys):
    """Those of the commands below a command, too."""
    waiting = [[name]]
    while waiting:
        words = waiting.pop()
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: ocp-scn {' '.join(words)} ")
        assert re.search(rf"^examples?:\s+ocp-scn {name}", text, re.MULTILINE)
        assert not re.search(r"``|:[a-z]+:`|python -m", text)
        if "COMMAND" in text:
            parts = re.findall(r"^    (\w+) ", text, re.MULTILINE)
            assert parts
            waiting += [[*words, part] for part in parts]


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_words_are_refused_in_one_line(name, capsys):
    line = refused(capsys, name, "--no-such-option")
    assert f"(see ocp-scn {name}" in line


def test_an_unknown_command_names_the_nearest(capsys):
    assert refused(capsys, "trian") == (
        "error: 'trian' is no command of ocp-scn; the nearest is 'train' (see ocp-scn --help)"
    )
    assert "no command given" in refused(capsys)


def test_runs_refuse_what_they_cannot_read(capsys, tmp_path):
    (tmp_path / "no.yml").write_text("- 1")
    (tmp_path / "bad.yml").write_text("a: [")
    for name in ("none.yml", "no.yml", "bad.yml"):
        path = tmp_path / name
        assert f"--config {path} cannot be read: " in refused(capsys, "train", "--config", str(path))
    assert "argument --seed: got 'a'; expected" in refused(capsys, "train", "--config", "x", "--seed=a")
    settings = ["--config", str(ROOT / "configs/s2ef/example/scn.yml"), "--otpim.batch_size=2"]
    assert "nothing reads 'otpim'" in refused(capsys, "train", *settings)


def test_a_configuration_of_the_other_line_is_named(capsys, monkeypatch):
    config = str(ROOT / "configs/fairchem2/s2ef/example.yaml")
    assert "is for fairchem-core 2, and fairchem-core 1.10.0 is installed; run make env-fairchem2" in refused(
        capsys, "train", "--config", config
    )
    monkeypatch.setattr(runs, "installed_line", lambda: None)
    config = str(ROOT / "configs/s2ef/example/scn.yml")
    assert "is for fairchem-core 1, and no fairchem is installed; run make env, or" in refused(
        capsys, "validate", "--config", config
    )


@pytest.mark.parametrize("words", [["--submit"], ["--debug"], ["--num-nodes", "2"]])
def test_reports_of_unfit_runs_are_refused(words, capsys):
    """Before anything is trained: those of jobs, which run later, of several nodes, and of no files."""
    config = ["--config", str(ROOT / "configs/s2ef/example/scn.yml")]
    line = refused(capsys, "train", *config, "--report", *words)
    assert line == f"error: --report does not go with {words[0]}; afterwards: ocp-scn report RUN_DIR"


def test_runs_have_fairchems_options():
    """Those that this package's runs read, with the same names; main.py has them all."""
    theirs = {option for action in flags.get_parser()._actions for option in action.option_strings}
    ours = {option for action in runs.build_parser()._actions for option in action.option_strings}
    assert ours - theirs <= {"--config", "--trust", "--verbose", "--report"}
    assert theirs - ours == {"--mode", "--summit", "--gp-gpus"}


@pytest.mark.parametrize("name", experiments.experiments())
def test_copied_experiments_are_whole(name, tmp_path, monkeypatch):
    """What they include is with them, and is found from any folder; what was there stays."""
    first, *others = experiments.copy(name, tmp_path)
    source = experiments._files()[name]
    assert first.read_bytes() == source.read_bytes()
    assert experiments.copy(name, tmp_path) == [first, *others]
    if runs.line_of(source) == 1:
        monkeypatch.chdir(tmp_path.parent)
        words = ["--mode", "train", "--config-yml", str(first)]
        copied = load_config(*flags.get_parser().parse_known_args(words))
        monkeypatch.chdir(ROOT)
        words[-1] = str(source)
        assert copied == load_config(*flags.get_parser().parse_known_args(words))
    else:
        named = yaml.safe_load(source.read_text()).get("defaults", ["_self_"])
        assert bool(others) == (named != ["_self_"])


def test_copies_spare_other_files(tmp_path, capsys):
    (tmp_path / "configs/s2ef").mkdir(parents=True)
    (tmp_path / "configs/s2ef/base.yml").write_text("mine: 1")
    words = ["configs", "copy", "s2ef/2M/scn-t1-b1", str(tmp_path)]
    assert "base.yml' exists and is another file" in refused(capsys, *words)
    assert (tmp_path / "configs/s2ef/base.yml").read_text() == "mine: 1"
    assert not (tmp_path / "configs/s2ef/2M").exists()
    assert "no experiment 's2ef/3M/scn'; the nearest is " in refused(capsys, "configs", "copy", "s2ef/3M/scn")


@pytest.mark.slow
def test_train_is_main_py(tmp_path):
    words = ["train", "--config", "configs/s2ef/example/scn.yml", "--cpu", "--run-dir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "ocp_scn_cli", *map(str, words), "--dataset.train.src=nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: dataset.train.src='nowhere' does not exist\n"
