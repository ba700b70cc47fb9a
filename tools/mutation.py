"""Mutation testing: which small changes of the code do no tests notice?

    make mutation                                            a sample of each file's mutants
    make mutation ARGS="--all ocp_scn/graph.py"              all mutants of some files
    make mutation ARGS=--survivors                           once more those that survived last time

Mutants are those of mutmut's operators. Tests are imported and collected once; each mutant is put into a
forked copy of this process, where its file's tests run, the quickest first, until one fails. Which tests
these are, and how many mutants, is in setup.cfg. The exit status is 1 if one survives that docs/mutation.md
does not explain.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import difflib
import importlib
import inspect
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import hypothesis
import libcst as cst
import pytest
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutation.md"
RESULTS = ROOT / "build" / "mutation.json"
HANG = 2400  # seconds after which tests of the unchanged code are taken to hang
MEMORY = 6 * 2**30  # bytes that a mutant may take beside what is there before it
# Arguments on which no result depends here: texts for people, guards against bugs of one's own, and devices,
# of which there is one.
LEFT_OUT = {"help", "description", "epilog", "metavar", "prog", "desc", "unit", "delay", "mininterval"}
LEFT_OUT |= {"strict", "device"}


class Mutant(NamedTuple):
    """A change of a file: the lines before and after, and the whole file after."""

    file: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """How docs/mutation.md names it."""
        return f"`{self.before}` → `{self.after}`"


class Places(cst.CSTVisitor):
    """Collects what the operators make of a file: pairs of nodes, before and after."""

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _changes_nothing(node):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, new) for new in operator(node) if not _is_of_text(node, new)]
        return True


def _changes_nothing(node: cst.CSTNode) -> bool:
    """Whether no result depends on a node: types, decorators, texts of errors and of commands."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Raise):
        return True
    if isinstance(node, cst.Arg):
        return node.keyword is not None and node.keyword.value in LEFT_OUT
    if isinstance(node, cst.Assign):  # of a type, or of names that are exported
        target = node.targets[0].target
        name = target.value if isinstance(target, cst.Name) else ""
        return name == "__all__" or (isinstance(node.value, cst.Subscript) and name[:1].isupper())
    return isinstance(node, cst.If) and cst.Module([]).code_for_node(node.test) == '__name__ == "__main__"'


def _is_of_text(node: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a mutant changes or drops such an argument."""
    if not (isinstance(node, cst.Call) and isinstance(new, cst.Call)):
        return False
    changed = [a for a, b in itertools.zip_longest(node.args, new.args) if a is not b]
    return bool(changed) and changed[0] is not None and _changes_nothing(changed[0])


def mutants_of(file: str, number: int | None, rng: random.Random) -> list[Mutant]:
    """Return a random sample of a file's mutants (all for None), line by line."""
    source = (ROOT / file).read_text()
    places, module = Places(), cst.parse_module(source)
    module.visit(places)
    pairs = rng.sample(places.found, len(places.found))
    found: dict[str, Mutant] = {}
    for node, new in pairs:
        if number is not None and len(found) == number:
            break
        mutated = module.deep_replace(node, new).code
        with contextlib.suppress(SyntaxError):
            if ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source)):
                compile(mutated, file, "exec")
                found[mutated] = Mutant(file, *_difference(source, mutated), mutated)
    return sorted(found.values())


def _difference(source: str, mutated: str) -> tuple[int, str, str]:
    """Return the number of the first line that differs, and what stands there before and after."""
    old, new = source.splitlines(), mutated.splitlines()
    changes = [
        c for c in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if c[0] != "equal"
    ]
    (_, start, _, first, _), (_, _, end, _, last) = changes[0], changes[-1]
    texts = (" ".join(line.strip() for line in lines) for lines in (old[start:end], new[first:last]))
    return start + 1, *texts


# ------------------------------------------------------------------------------------------ in a copy


def put(mutant: Mutant) -> None:
    """Change the imported module into the mutant, wherever its functions and constants are used."""
    name = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module = importlib.import_module(name)
    new = ModuleType(name)
    new.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(compile(mutant.source, mutant.file, "exec"), new.__dict__)
    _transplant(vars(module), vars(new), module)


def _transplant(old: Any, new: Any, module: ModuleType) -> None:
    for name, value in new.items():
        before = old.get(name)
        if before is value or (name.startswith("__") and not callable(value)):
            continue
        if isinstance(value, type) and value.__module__ == module.__name__:
            _transplant(vars(before), vars(value), module)
        elif isinstance(_function(value), FunctionType):
            _exchange(_function(before), _function(value))
            if hasattr(before, "cache_clear"):
                before.cache_clear()
        elif old is vars(module):
            for other in list(sys.modules.values()):
                if other is module or (
                    vars(other).get(name) is before and other.__name__.startswith(("ocp_scn", "tests"))
                ):
                    setattr(other, name, value)


def _function(value: Any) -> Any:
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return inspect.unwrap(value) if callable(value) else value


def _exchange(old: FunctionType, new: FunctionType) -> None:
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


class Runner:
    """A plugin of pytest that runs the collected tests once for each mutant, each time in a forked copy."""

    def __init__(
        self, groups: dict[str, list[str]], mutants: list[Mutant], durations: dict[str, float]
    ) -> None:
        self.groups, self.mutants = groups, mutants
        self.durations = durations  # of tests, as far as they are known
        self.results: list[dict[str, Any]] = []
        self.broken = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        earlier = 0 if report.when == "setup" else self.durations[report.nodeid]
        self.durations[report.nodeid] = earlier + report.duration

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        of_groups = {file: self._items(session, tests) for file, tests in self.groups.items()}
        unchanged = [Mutant(file, 0, "", "", (ROOT / file).read_text()) for file in self.groups]
        for items in {tuple(items): items for items in of_groups.values()}.values():
            _, self.broken, durations = self._forked(session, items, unchanged, HANG)
            self.durations |= durations
            if self.broken:
                return True
        for number, mutant in enumerate(self.mutants, 1):
            items = of_groups[mutant.file]
            limit = 20 + 5 * sum(self.durations.get(item.nodeid, 0) for item in items)
            start = time.monotonic()
            outcome, by, _ = self._forked(session, items, [mutant], int(limit))
            seconds = round(time.monotonic() - start, 1)
            found = {"outcome": outcome, "by": by, "seconds": seconds, **mutant._asdict()}
            del found["source"]
            self.results.append(found)
            print(
                f"{number}/{len(self.mutants)} {mutant.file}:{mutant.line} {outcome} {seconds} s",
                file=sys.stderr,
            )
        return True

    def _items(self, session: pytest.Session, tests: Sequence[str]) -> list[pytest.Item]:
        """Return the tests below some names, the quickest first."""
        items = [item for item in session.items if item.nodeid.startswith(tuple(tests))]
        return sorted(items, key=lambda item: self.durations.get(item.nodeid, 0))

    def _forked(
        self, session: pytest.Session, items: Sequence[pytest.Item], mutants: Sequence[Mutant], limit: int
    ) -> tuple[str, str, dict[str, float]]:
        """Return the outcome, the test that failed, and how long each took."""
        with tempfile.NamedTemporaryFile("r") as answer:
            child = os.fork()
            if not child:
                self._child(session, items, mutants, limit, Path(answer.name))
            _, status = os.waitpid(child, 0)
            found = json.loads(answer.read() or "{}")
        if os.WIFSIGNALED(status):
            kind = "timed out" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
            return kind, f"signal {os.WTERMSIG(status)}", {}
        return found["outcome"], found["by"], found["durations"]

    def _child(
        self,
        session: pytest.Session,
        items: Sequence[pytest.Item],
        mutants: Sequence[Mutant],
        limit: int,
        answer: Path,
    ) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(limit)  # ends this process
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
        outcome, by = "survived", ""
        try:
            for mutant in mutants:
                put(mutant)
            for item in items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    outcome, by = "killed", item.nodeid
                    break
        except BaseException as error:
            outcome, by = "killed", f"{type(error).__name__}: {error}"
        answer.write_text(json.dumps({"outcome": outcome, "by": by, "durations": self.durations}))
        os._exit(0)


# ----------------------------------------------------------------------------------------- the command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/mutation.py", description="Find changes that no test notices."
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="files of setup.cfg (default: all)")
    parser.add_argument("--all", action="store_true", help="run all mutants rather than a sample")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of a file (default: setup.cfg's)")
    parser.add_argument("--survivors", action="store_true", help="run those that survived last time")
    return parser


def main() -> int:
    """Run the mutants, keep and print the results; return the exit status."""
    args = build_parser().parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    settings, tests = config["mutation"], _tests_of_files(config)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results, durations = kept.get("mutants", []), kept.get("durations", {})
    alive = {_identity(m) for m in results if m["outcome"] == "survived"}
    files = args.files or (sorted({file for file, *_ in alive}) if args.survivors else list(tests))
    unknown = ", ".join(sorted(set(files) - set(tests)))
    if unknown:
        print(f"error: {unknown}; expected files of setup.cfg, [mutation.tests]", file=sys.stderr)
        return 2
    mutants = []
    for file in files:
        number = None if args.all or args.survivors else args.sample or settings.getint("sample")
        found = mutants_of(file, number, random.Random(f"{settings['seed']} {file}"))
        mutants += [m for m in found if not args.survivors or _identity(m._asdict()) in alive]
    runner = Runner({file: tests[file] for file in files}, mutants, durations)
    _run(runner, settings["without"].split())
    if runner.broken or len(runner.results) < len(mutants):
        print(f"error: without a mutant fails {runner.broken or 'the collection'}", file=sys.stderr)
        return 2
    again = {_identity(m) for m in runner.results}
    of_others = [m for m in results if args.survivors or m["file"] not in files]
    results = [m for m in of_others if _identity(m) not in again] + runner.results
    results.sort(key=lambda m: (m["file"], m["line"]))
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"mutants": results, "durations": runner.durations}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False))
    return report(results)


def _run(runner: Runner, left_out: Sequence[str]) -> None:
    # The same examples for every mutant, which none fails for being slow.
    hypothesis.settings.register_profile("mutation", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutation")
    words = sorted({test for tests in runner.groups.values() for test in tests})
    words += [word for name in left_out for word in ("--deselect", name)]
    words += ["-qq", "-s", "-p", "no:cacheprovider", "-m", "not slow and not cuda"]
    memory = "/dev/shm"  # where files of tests cost no waiting for a disk
    with tempfile.TemporaryDirectory(dir=memory if Path(memory).is_dir() else None) as folder:
        pytest.main([*words, f"--basetemp={folder}/pytest"], plugins=[runner])


def _identity(m: dict[str, Any]) -> tuple[str, str, str]:
    return m["file"], m["before"], m["after"]


def _tests_of_files(config: configparser.ConfigParser) -> dict[str, list[str]]:
    """Return the tests of each file, from the section ``mutation.tests``."""
    found = {}
    for pattern, tests in config["mutation.tests"].items():
        for path in sorted(ROOT.glob(pattern)):
            found[str(path.relative_to(ROOT))] = tests.split()
    return found


def report(results: list[dict[str, Any]]) -> int:
    """Print a table and the survivors; return 1 if the page does not explain one of them."""
    print("| file | mutants | killed | survived | killed [%] |\n|---|---:|---:|---:|---:|")
    files = sorted({m["file"] for m in results})
    rows = [(f"`{file}`", [m for m in results if m["file"] == file]) for file in files]
    for name, of_file in [*rows, ("all", results)]:
        alive = sum(m["outcome"] == "survived" for m in of_file)
        share = 100 * (1 - alive / max(1, len(of_file)))
        print(f"| {name} | {len(of_file)} | {len(of_file) - alive} | {alive} | {share:.0f} |")
    page = PAGE.read_text() if PAGE.exists() else ""
    survivors = [m for m in results if m["outcome"] == "survived"]
    unexplained = [m for m in survivors if f"`{m['before']}` → `{m['after']}`" not in page]
    print(f"\n{len(unexplained)} of {len(survivors)} survivors are not explained in {PAGE.relative_to(ROOT)}")
    for m in unexplained:
        print(f"{m['file']}:{m['line']}\n- `{m['before']}` → `{m['after']}`: ")
    return int(bool(unexplained))


if __name__ == "__main__":
    sys.exit(main())
