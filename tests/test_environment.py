"""The set-up script, run as a user runs it, with a pip that only notes what it is asked for."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests import HANG

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "environment.sh"
REQUIREMENTS = [f"requirements/{name}.txt" for name in ("lock", "requirements", "torch")]

# Notes its arguments, fails where told, and leaves what the script looks for after each step.
FAKE_PIP = """
import os, pathlib, sys

here = pathlib.Path(__file__).parent.parent
arguments = " ".join(sys.argv[1:])
with (here / "calls.txt").open("a") as calls:
    print(arguments, file=calls)
if os.environ.get("PIP_FAILS_AT", "never") in arguments:
    sys.exit("no matching distribution")
modules = {
    "torch.txt": ("torch", "from types import SimpleNamespace\\n"
                           f"__version__ = '{'2.13.0' if 'fairchem2' in arguments else '2.4.1'}'\\n"
                           "cuda = SimpleNamespace(is_available=lambda: False)\\n"),
    "torch-scatter": ("torch_scatter", ""),
    " -e ": ("ocp_scn", "import sys, types\\ndef SphericalChannelNetwork(**settings): pass\\n"
                        "v2 = types.SimpleNamespace(SCNBackbone=SphericalChannelNetwork)\\n"
                        "sys.modules.update({'ocp_scn.fairchem': v2, 'ocp_scn.fairchem.v2': v2})\\n"),
}
for word, (name, text) in modules.items():
    if word in arguments and word != os.environ.get("PIP_WRITES_NOTHING_AT"):
        (here / f"{name}.py").write_text(text)
"""


class Environment:
    """An environment without pip's network and without its packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.packages = next(folder.glob("lib/python3.*/site-packages"))
        (self.packages / "pip").mkdir()
        (self.packages / "pip" / "__main__.py").write_text(FAKE_PIP)
        self.stamp = folder / "ocp-scn.stamp"

    def run(self, *arguments: str, script: Path = SCRIPT, **variables: str) -> subprocess.CompletedProcess:
        return run_script(*arguments, script=script, VENV=str(self.folder), **variables)

    def calls(self) -> list[str]:
        """Return what pip was asked for since the last call."""
        notes = self.packages / "calls.txt"
        lines = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return lines


def run_script(*arguments: str, script: Path = SCRIPT, **variables: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in ("VENV", "PYTHON")}
    return subprocess.run(
        [shutil.which("bash"), script, *arguments],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "an environment")


@pytest.fixture
def path_without_python(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "mkdir"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_no_interpreter_at_all(tmp_path, path_without_python):
    result = run_script(PATH=str(path_without_python), VENV=str(tmp_path / "env"))
    assert result.returncode == 1
    assert "3.10, 3.11 or 3.12 is needed; found: none" in result.stderr
    assert not (tmp_path / "env").exists()


def test_an_unsuitable_interpreter_is_named_with_its_version(tmp_path):
    old = executable(tmp_path / "old", "printf '3.9\\nnot supported\\n'")
    result = run_script(PYTHON=str(old), VENV=str(tmp_path / "env"))
    assert result.returncode == 1
    assert "3.10, 3.11 or 3.12 is needed" in result.stderr
    assert f"{old} (3.9 not supported)" in result.stderr
    assert not (tmp_path / "env").exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not an environment")
    result = run_script(VENV=str(tmp_path))
    assert result.returncode == 1
    assert "is neither empty nor an environment" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_this_interpreter_is_judged_by_its_version():
    result = run_script("--interpreter", PYTHON=sys.executable)
    if sys.version_info[:2] in ((3, 10), (3, 11), (3, 12)):
        assert "not supported" not in result.stderr
    else:
        assert "not supported" in result.stderr


def test_a_shim_that_fails_is_passed_over(path_without_python):
    executable(path_without_python / "python3.12", "exit 127")
    good = executable(path_without_python / "python3.10", "printf '3.10\\n\\n'")
    result = run_script("--interpreter", PATH=str(path_without_python))
    assert (result.returncode, result.stdout.strip()) == (0, str(good))


def test_a_second_run_installs_nothing(environment):
    first = environment.run()
    assert first.returncode == 0, first.stderr
    assert [re.search(r"torch\.txt|torch-scatter|/requirements\.txt| -e |setuptools", call)[0]
            for call in environment.calls()] == [
        "setuptools", "torch.txt", "torch-scatter", "/requirements.txt", " -e ",
    ]  # fmt: skip
    assert environment.stamp.exists()

    second = environment.run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert environment.calls() == []


def test_fairchem_2_has_an_environment_of_its_own(environment):
    first = environment.run("--fairchem2")
    assert first.returncode == 0, first.stderr
    calls = environment.calls()
    assert [re.search(r"torch\.txt|/requirements\.txt| -e |setuptools", call)[0] for call in calls] == [
        "setuptools", "torch.txt", "/requirements.txt", " -e ",
    ]  # fmt: skip
    assert all("/requirements/fairchem2/lock.txt" in call for call in calls)
    second = environment.run("--fairchem2")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    other = environment.run()
    assert other.returncode == 1
    assert "has torch 2.13.0, but fairchem-core 1.10 needs 2.4" in other.stderr


@pytest.mark.parametrize("step", ["torch.txt", "torch-scatter", "/requirements.txt"])
def test_a_failed_step_leaves_no_stamp_and_is_taken_up_again(environment, step):
    failed = environment.run(PIP_FAILS_AT=step)
    assert failed.returncode == 1
    assert "failed at: " in failed.stderr
    assert f"the whole output: {environment.folder}/ocp-scn.log" in failed.stderr
    assert "no matching distribution" in failed.stderr
    assert not environment.stamp.exists()

    assert environment.run().returncode == 0
    assert environment.stamp.exists()


def test_a_package_that_does_not_work_leaves_no_stamp(environment):
    (environment.packages / "torch_scatter.py").write_text("")
    result = environment.run(PIP_WRITES_NOTHING_AT=" -e ")
    assert result.returncode == 1
    assert "failed at: a first model" in result.stderr
    assert "No module named 'ocp_scn'" in result.stderr
    assert not environment.stamp.exists()


def test_a_torch_that_fits_is_kept(environment):
    (environment.packages / "torch.py").write_text(
        "from types import SimpleNamespace\n__version__ = '2.4.0+cpu'\n"
        "cuda = SimpleNamespace(is_available=lambda: False)\n"
    )
    (environment.packages / "torch_scatter.py").write_text("")
    assert environment.run().returncode == 0
    assert not [call for call in environment.calls() if "torch.txt" in call or "torch-scatter" in call]


def test_another_torch_is_refused_not_replaced(environment):
    (environment.packages / "torch.py").write_text("__version__ = '2.6.0'\n")
    result = environment.run()
    assert result.returncode == 1
    assert "has torch 2.6.0, but fairchem-core 1.10 needs 2.4" in result.stderr
    assert not [call for call in environment.calls() if "torch.txt" in call]
    assert not environment.stamp.exists()


def test_a_shared_environment_is_linked_to_the_checkout_that_asks(environment):
    assert environment.run().returncode == 0
    environment.calls()
    key, link = environment.stamp.read_text().splitlines()
    assert link.startswith(f"{ROOT} ")
    # Another checkout, or other kernels in this one.
    for other in (link.replace(str(ROOT), "/a/deleted/checkout"), link + "1"):
        environment.stamp.write_text(f"{key}\n{other}\n")
        assert environment.run().returncode == 0
        (call,) = environment.calls()
        assert call.endswith(f"-e {ROOT}")
        assert environment.stamp.read_text() == f"{key}\n{link}\n"
    assert environment.run().returncode == 0
    assert not environment.calls()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler for kernels")
def test_a_fresh_checkout_in_the_same_place_gets_its_kernels(environment, tmp_path):
    """The environment knows the place, but what was compiled there is gone with the old checkout."""
    checkout = tmp_path / "checkout"
    for name in (
        "tools/environment.sh",
        "setup.py",
        "ocp_scn/ops/cpu/kernels.cpp",
        "ocp_scn/ops/cpu/ranges.h",
        *REQUIREMENTS,
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    script = checkout / "tools/environment.sh"
    assert environment.run(script=script).returncode == 0
    for compiled, calls in ((False, 1), (True, 0)):
        environment.calls()
        if compiled:
            suffix = sysconfig.get_config_var("EXT_SUFFIX")
            (checkout / f"ocp_scn/ops/cpu/_compiled{suffix}").touch()
        assert environment.run(script=script).returncode == 0
        assert len(environment.calls()) == calls


def test_missing_kernels_are_said(environment):
    """Where no compiler was, the environment is complete, and the user knows why it is slower."""
    result = environment.run()
    assert result.returncode == 0
    assert "the kernels are missing" in result.stdout
    assert environment.stamp.exists()


def test_changed_requirements_are_installed(environment):
    environment.stamp.write_text(f"3.11.0 12345 678\n{ROOT}\n")
    assert environment.run().returncode == 0
    assert len(environment.calls()) == 5


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("folder", ["", "fairchem2/"])
def test_the_lock_pins_every_direct_dependency(folder):
    lock = requirement_lines(f"{folder}lock.txt")
    assert all(re.fullmatch(r'[a-z0-9.-]+==[\w.]+( ; python_version < "3\.11")?', line) for line in lock)
    pinned = {line.split("==")[0] for line in lock}
    for line in requirement_lines(f"{folder}requirements.txt"):
        assert re.split("[ =]", line)[0].lower() in pinned
