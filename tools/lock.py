"""Resolves requirements/*.in into exact versions with the hashes of their files.

    make lock                       after a change of an .in file: what still fits keeps its version
    make lock LOCK_ARGS=--upgrade   take the newest versions that fit (or "--upgrade-package numpy")

Each folder of .in files gets lock.txt; what is installed apart goes to files of its own: torch.txt, cuda.txt
(what torch's build for CUDA needs and nothing else does) and scatter.txt. oldest/lock.txt has the lower
bounds of setup.cfg, for fairchem-core 1.10.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
UV = Path(sys.executable).parent / "uv"
# Each folder with its oldest Python, whose versions suit the newer ones.
LINES = [(FOLDER, "3.10"), (FOLDER / "fairchem2", "3.11")]
HEADER = "# Made by `make lock` from {source}; do not edit.\n"
WITHOUT_TORCH = "torch ; python_version < '3'\n"


def entries(text: str) -> list[str]:
    """Return the requirements of a lock, each with its hashes."""
    return re.findall(r"^\w.*\n(?:^ +--hash.*\n)*", text, flags=re.MULTILINE)


def name_of(entry: str) -> str:
    """Return the name of a lock's requirement."""
    return re.split("[=; ]", entry, maxsplit=1)[0]


def resolve(sources: list[Path], python: str, before: str, *options: str) -> str:
    """Return the lock of the sources; versions of the lock before are kept where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "lock.txt"
        lock.write_text(before)
        command = [UV, "--config-file", FOLDER / "uv.toml", "pip", "compile", "--quiet", "--universal"]
        command += ["--python-version", python, "--fork-strategy", "fewest", "--generate-hashes"]
        command += ["--no-annotate", "--no-header", *options, *sources, "-o", lock]
        done = subprocess.run(command, check=False, env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"})
        if done.returncode:  # uv has said why
            sys.exit(done.returncode)
        return lock.read_text()


def write(path: Path, source: str, found: list[str]) -> None:
    """Replace a lock, whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(HEADER.format(source=source) + "".join(found))
    part.replace(path)


def lock_line(folder: Path, python: str, options: list[str]) -> None:
    """Write the locks of one line of fairchem."""
    source = folder / "requirements.in"
    overrides = folder / "overrides.in"
    if overrides.exists():
        options = [*options, "--override", str(overrides)]
    paths = {name: folder / f"{name}.txt" for name in ("lock", "torch", "cuda", "scatter")}
    before = "".join(path.read_text() for path in paths.values() if path.exists())
    whole = resolve([source], python, before, *options)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as without:
        without.write(WITHOUT_TORCH)
        without.flush()
        rest = {
            name_of(entry) for entry in entries(resolve([source], python, whole, "--override", without.name))
        }

    parts: dict[str, list[str]] = {name: [] for name in paths}
    for entry in entries(whole):
        name = name_of(entry)
        if name in ("torch", "torch-scatter"):
            parts[name.removeprefix("torch-")].append(entry)
        else:
            # What torch needs without CUDA, it needs on every system.
            for_cuda = name not in rest and "sys_platform" in entry
            parts["cuda" if for_cuda else "lock"].append(entry)
    for name, found in parts.items():
        if found:
            write(paths[name], source.name, found)


def lock_oldest(python: str) -> None:
    """Write the lock of the lower bounds in setup.cfg; what has none is as in the lock of line 1."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    wanted = config["options"]["install_requires"] + extras["fairchem"] + extras["dev"]
    bounded = {name_of(line) for line in wanted.splitlines() if ">=" in line}
    newest = entries((FOLDER / "lock.txt").read_text() + (FOLDER / "scatter.txt").read_text())
    before = "".join(entry for entry in newest if name_of(entry) not in bounded)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
        source.write(wanted)
        source.flush()
        found = entries(resolve([Path(source.name)], python, before, "--resolution", "lowest-direct"))
    found = [entry for entry in found if name_of(entry) != "torch-scatter"]
    write(FOLDER / "oldest" / "lock.txt", "setup.cfg", found)


def main() -> None:
    """Write all locks."""
    for name in ("build", "tools"):
        path = FOLDER / f"{name}.txt"
        before = path.read_text() if path.exists() else ""
        found = resolve([FOLDER / f"{name}.in"], LINES[0][1], before, *sys.argv[1:])
        write(path, f"{name}.in", entries(found))
    for folder, python in LINES:
        lock_line(folder, python, sys.argv[1:])
    lock_oldest(LINES[0][1])


if __name__ == "__main__":
    main()
