"""What a release has: a source that builds, tests and runs everything, and a package that works anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import ocp_scn
from tests import HANG

ROOT = Path(__file__).resolve().parent.parent
PIN = re.search(r'requires = \["setuptools==(.+)"\]', (ROOT / "pyproject.toml").read_text())[1]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that has to succeed and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Return the files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository: the files of a release are not known")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def source(tracked, tmp_path_factory) -> Path:
    """Return the source distribution of the checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    target = tmp_path_factory.mktemp("source")
    run(
        sys.executable,
        "-c",
        f"from setuptools import build_meta; build_meta.build_sdist({str(target)!r})",
        cwd=checkout,
    )
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """Return the package built of the source distribution."""
    target = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", target, source,
        cwd=target,
    )  # fmt: skip
    (path,) = target.iterdir()
    return path


def test_the_source_has_every_file_of_the_repository(source, tracked):
    with tarfile.open(source) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(tracked) <= packed
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in packed - set(tracked) if ".egg-info/" not in name} <= made


def test_the_package_has_its_modules_and_kernels(wheel, tracked):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("ocp_scn/")}
    modules = {name for name in tracked if name.startswith("ocp_scn/") and name.endswith(".py")}
    assert modules | {"ocp_scn/ops/cpu/kernels.cpp", "ocp_scn/ops/cpu/ranges.h"} <= packed
    configs = {f"ocp_scn/{name}" for name in tracked if name.startswith("configs/")}
    assert {name for name in packed if name.startswith("ocp_scn/configs/")} == configs
    compiled = f"ocp_scn/ops/cpu/_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert (compiled in packed) == (shutil.which("c++") is not None)


@pytest.mark.slow
def test_the_package_works_in_an_empty_environment(wheel, tmp_path):
    """Beside what it needs, and away from the checkout."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    packages = next(environment.glob("lib/python3.*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--no-deps"]
    run(*install, "--no-index", "--no-compile", wheel, cwd=tmp_path)
    # Only their packages: links to checkouts, which .pth files of theirs would make, do not count.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = environment / "bin" / "python"
    program = "import ocp_scn; from ocp_scn.ops import cpu; print(ocp_scn.__file__, cpu.compiled())"
    found = run(python, "-c", program, cwd=tmp_path).split()
    assert found == [str(packages / "ocp_scn/__init__.py"), str(shutil.which("c++") is not None)]
    assert "convert" in run(python, "-m", "ocp_scn.data", "--help", cwd=tmp_path)
    command = environment / "bin" / "ocp-scn"
    assert run(command, "--version", cwd=tmp_path).startswith(f"ocp-scn {ocp_scn.__version__}, ")
    assert "s2ef/2M/scn-t1-b1" in run(command, "configs", "list", cwd=tmp_path).splitlines()
    copied = run(command, "configs", "copy", "s2ef/2M/scn-t1-b1", "mine", cwd=tmp_path).splitlines()
    assert copied == [f"wrote mine/configs/s2ef/{name}.yml" for name in ("2M/scn-t1-b1", "base")]
    assert (tmp_path / "mine/configs/s2ef/base.yml").read_bytes() == (
        ROOT / "configs/s2ef/base.yml"
    ).read_bytes()


def test_what_builds_is_what_the_environment_has():
    """The build asks for the version whose hash is locked."""
    assert f"setuptools=={PIN} " in (ROOT / "requirements/build.txt").read_text()
