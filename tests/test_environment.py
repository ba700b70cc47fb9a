"""The set-up script, run as a user runs it, with a pip that only notes what it is asked for."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import HANG
from tests.requirements import wanted

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "environment.sh"
LOCKS = [f"requirements/{name}.txt" for name in ("build", "lock", "torch", "cuda", "scatter")]

# Notes its arguments, fails where told, and leaves what the script looks for after each step.
FAKE_PIP = """
import os, pathlib, sys

here = pathlib.Path(__file__).parent.parent
arguments = " ".join(sys.argv[1:])
with (here / "calls.txt").open("a") as calls:
    print(arguments, file=calls)
if "torch-cpu.txt" in arguments and "CPU_BUILD" not in os.environ:
    sys.exit("no matching distribution")
if os.environ.get("PIP_FAILS_AT", "never") in arguments:
    sys.exit("no matching distribution")
version = "2.13.0" if "fairchem2" in arguments else "2.10.0"
build = os.environ.get("CUDA") or None
files = {
    "torch.txt": {"torch/__init__.py": "from types import SimpleNamespace\\n"
                                       f"__version__ = '{version}'\\n"
                                       "version = SimpleNamespace(cuda=None)\\n"
                                       "cuda = SimpleNamespace(is_available=lambda: False)\\n",
                  "torch/version.py": f"cuda = {build!r}\\n"},
    "scatter.txt": {"torch_scatter.py": ""},
    " -e ": {"ocp_scn.py": "import sys, types\\ndef SphericalChannelNetwork(**settings): pass\\n"
                           "v2 = types.SimpleNamespace(SCNBackbone=SphericalChannelNetwork)\\n"
                           "sys.modules.update({'ocp_scn.fairchem': v2, 'ocp_scn.fairchem.v2': v2})\\n"},
}
files["torch-cpu.txt"] = files["torch.txt"]
for word, written in files.items():
    if word in arguments and word != os.environ.get("PIP_WRITES_NOTHING_AT"):
        for name, text in written.items():
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_text(text)
"""
# Of a compiler, in a shell.
NO_OPENMP = """case " $* " in *" -fopenmp "*) echo "error: unsupported option '-fopenmp'" >&2; exit 1;; esac
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
    *locked, linked = environment.calls()
    assert [Path(call.split()[-1]).name for call in locked] == [
        "build.txt", "lock.txt", "torch.txt", "scatter.txt",
    ]  # fmt: skip
    assert all("--require-hashes" in call and "--no-deps" in call for call in locked)
    assert linked.endswith(f" -e {ROOT}")
    assert environment.stamp.exists()

    second = environment.run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert environment.calls() == []


def test_fairchem_2_has_an_environment_of_its_own(environment):
    first = environment.run("--fairchem2")
    assert first.returncode == 0, first.stderr
    calls = environment.calls()
    assert [re.search(r"requirements/.*| -e ", call)[0] for call in calls] == [
        "requirements/build.txt",
        "requirements/fairchem2/lock.txt",
        "requirements/fairchem2/torch-cpu.txt",
        "requirements/fairchem2/torch.txt",
        " -e ",
    ]  # fmt: skip
    second = environment.run("--fairchem2")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    other = environment.run()
    assert other.returncode == 1
    assert "has torch 2.13.0, but fairchem-core 1.10 needs 2.10" in other.stderr


@pytest.mark.parametrize("step", ["lock.txt", "torch.txt", "cuda.txt", "scatter.txt"])
def test_a_failed_step_leaves_no_stamp_and_is_taken_up_again(environment, step):
    failed = environment.run(PIP_FAILS_AT=step, CUDA="12.8")
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


def test_the_build_without_cuda_is_taken_where_pip_finds_one(environment):
    result = environment.run("--fairchem2", CPU_BUILD="1", CUDA="13.0")
    assert result.returncode == 0, result.stderr
    assert "the build without CUDA" in result.stdout
    assert not re.search(r"/torch\.txt|cuda\.txt", "".join(environment.calls()))


@pytest.mark.parametrize("build", ["", "12.8"])
def test_what_torch_needs_for_cuda_is_installed_with_such_a_build(environment, build):
    assert environment.run(CUDA=build).returncode == 0
    assert ("cuda.txt" in "".join(environment.calls())) == bool(build)


@pytest.mark.parametrize(("version", "warned"), [("2.10.0+cpu", False), ("2.4.1", True)])
def test_a_torch_that_fits_is_kept(environment, version, warned):
    (environment.packages / "torch.py").write_text(
        f"from types import SimpleNamespace\n__version__ = '{version}'\n"
        "cuda = SimpleNamespace(is_available=lambda: False)\n"
    )
    (environment.packages / "torch_scatter.py").write_text("")
    result = environment.run()
    assert result.returncode == 0
    assert not re.search("torch.txt|cuda.txt|scatter.txt", "".join(environment.calls()))
    assert (f"torch {version} stays" in result.stdout and "CVE-2025-32434" in result.stdout) == warned


def test_a_gpu_takes_the_wheel_for_its_torch_and_says_that_it_has_no_hash(environment):
    """What has no hash in the lock is never taken from an index of sources."""
    (environment.packages / "torch.py").write_text(
        "from types import SimpleNamespace\n__version__ = '2.10.0+cu128'\n"
        "cuda = SimpleNamespace(is_available=lambda: True)\nversion = SimpleNamespace(cuda='12.8')\n"
    )
    result = environment.run()
    assert "no lock has its hash" in result.stdout
    wheel, source = (call for call in environment.calls() if "scatter" in call)
    assert "--find-links https://data.pyg.org/whl/torch-2.10.0+cu128.html" in wheel
    assert "--only-binary torch-scatter" in wheel
    # This pip has none, as an index that cannot be reached: the source is built, by its hash.
    assert "--require-hashes" in source
    assert source.endswith("scatter.txt")


def test_another_torch_is_refused_not_replaced(environment):
    (environment.packages / "torch.py").write_text("__version__ = '2.6.0'\n")
    result = environment.run()
    assert result.returncode == 1
    assert "has torch 2.6.0, but fairchem-core 1.10 needs 2.10" in result.stderr
    assert not [call for call in environment.calls() if "torch.txt" in call]
    assert not environment.stamp.exists()


def test_a_shared_environment_is_linked_to_the_checkout_that_asks(environment):
    assert environment.run().returncode == 0
    environment.calls()
    key, link, *_ = environment.stamp.read_text().splitlines()
    assert link.startswith(f"{ROOT} ")
    # Another checkout, or other kernels in this one.
    for other in (link.replace(str(ROOT), "/a/deleted/checkout"), link + "1"):
        environment.stamp.write_text(f"{key}\n{other}\n")
        assert environment.run().returncode == 0
        (call,) = environment.calls()
        assert call.endswith(f"-e {ROOT}")
        assert environment.stamp.read_text().splitlines()[:2] == [key, link]
    assert environment.run().returncode == 0
    assert not environment.calls()


def test_kernels_that_are_missing_are_compiled_once(environment, tmp_path):
    """In a fresh checkout in the place of another one, and anew only with another compiler."""
    checkout = tmp_path / "checkout"
    for name in (
        "tools/environment.sh",
        "setup.py",
        "setup.cfg",
        "ocp_scn/ops/cpu/kernels.cpp",
        "ocp_scn/ops/cpu/ranges.h",
        *LOCKS,
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    kernels = checkout / f"ocp_scn/ops/cpu/_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    other = executable(tmp_path / "other", "echo a compiler without OpenMP")

    def linked(**variables: str) -> int:
        assert environment.run(script=checkout / "tools/environment.sh", **variables).returncode == 0
        return len(environment.calls())

    kernels.touch()
    assert (linked() > 1, linked()) == (True, 0)
    kernels.unlink()
    assert (linked(), linked()) == (1, 0)  # this pip compiles nothing, so it is not asked again
    assert (linked(CXX=str(other)), linked(CXX=str(other))) == (1, 0)
    assert (linked(CXX="no-compiler"), linked(CXX="no-compiler")) == (1, 0)
    kernels.touch()
    assert linked(CXX=str(other)) == 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler for kernels")
@pytest.mark.parametrize("openmp", [True, False])
def test_a_compiler_without_openmp_compiles_no_kernels(tmp_path, openmp):
    """As Apple's; the installation goes on without them."""
    script = f'{"" if openmp else NO_OPENMP}exec {shutil.which("c++")} -O0 "$@"'
    compiler = executable(tmp_path / "compiler", script)
    words = ["setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "CC": str(compiler), "CXX": str(compiler)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    assert bool(list(tmp_path.glob("lib/**/_compiled*.so"))) == openmp
    assert ("unsupported option '-fopenmp'" in done.stdout + done.stderr) == (not openmp)


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


def locked(path: Path) -> dict[str, list[str]]:
    """Return each requirement of a lock with its hashes."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("    --hash="):
            found[list(found)[-1]].append(line.strip(" \\"))
        elif not line.startswith("#"):
            found[line.strip(" \\")] = []
    return found


LOCK_FILES = [ROOT / name for name in LOCKS] + [
    ROOT / "requirements/tools.txt",
    ROOT / "requirements/oldest/lock.txt",
    *(ROOT / f"requirements/fairchem2/{name}.txt" for name in ("lock", "torch", "torch-cpu", "cuda")),
]


@pytest.mark.parametrize("path", LOCK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_has_exact_versions_with_hashes(path):
    lock = locked(path)
    assert lock
    for requirement, hashes in lock.items():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", requirement)
        assert hashes, requirement
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", line) for line in hashes)


@pytest.mark.parametrize("folder", ["requirements", "requirements/fairchem2"])
def test_the_locks_have_every_direct_dependency(folder):
    paths = [path for path in LOCK_FILES if path.parent == ROOT / folder]
    pinned = {line.split("==")[0] for path in paths for line in locked(path)}
    lines = (ROOT / folder / "requirements.in").read_text().splitlines()
    direct = {re.split("[=<; ]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    assert "fairchem-core" in direct
    assert direct <= pinned


@pytest.mark.parametrize("folder", ["requirements", "requirements/fairchem2"])
def test_no_package_is_in_two_locks_of_an_environment(folder):
    """No step replaces what another one installed; setuptools, which builds and runs, is the same in both."""
    paths = [
        path
        for path in LOCK_FILES
        if path.parent == ROOT / folder and path.stem not in ("tools", "torch-cpu")
    ]
    versions: dict[str, set[str]] = {}
    for path in {ROOT / "requirements/build.txt", *paths}:
        for line in locked(path):
            requirement, _, marker = line.partition(" ; ")
            versions.setdefault(requirement.split("==")[0] + marker, set()).add(requirement)
    assert all(len(found) == 1 for found in versions.values())


def versions_of(*names: str) -> dict[str, Version]:
    """Return the versions in locks, those on Linux."""
    found = {}
    for name in names:
        for line in locked(ROOT / "requirements" / f"{name}.txt"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"}):
                found[requirement.name] = Version(str(requirement.specifier).removeprefix("=="))
    return found


@pytest.mark.parametrize(
    ("extra", "locks"),
    [
        ("fairchem", ["lock", "torch", "scatter"]),
        ("fairchem", ["oldest/lock", "scatter"]),
        ("calculator", ["lock", "torch"]),
        ("fairchem2", ["fairchem2/lock", "fairchem2/torch"]),
    ],
)
def test_what_is_locked_fits_what_the_package_asks_for(extra, locks):
    versions = versions_of(*locks)
    for requirement in wanted(extra):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_oldest_versions_are_the_lower_bounds():
    """Whoever moves a bound makes the lock anew, and tests what is in it."""
    oldest = versions_of("oldest/lock", "scatter")
    bounds = {
        requirement.name: Version(specifier.version)
        for requirement in wanted("fairchem")
        for specifier in requirement.specifier
        if specifier.operator in (">=", "==")
    }
    unbounded = {requirement.name for requirement in wanted("fairchem")} - set(bounds)
    assert unbounded == {"setuptools"}  # which builds, in the version of build.txt
    assert {name: oldest[name] for name in bounds} == bounds


def test_bounds_are_the_same_wherever_they_are():
    """The extras without the newest fairchem are tested in the environment with it."""
    lowest = {
        (requirement.name, specifier.version)
        for extra in ("fairchem", "calculator", "fairchem2")
        for requirement in wanted(extra)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    names = [name for name, _ in lowest]
    assert sorted(names) == sorted(set(names))
