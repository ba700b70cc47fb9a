"""Options of the commands: a value that makes no sense ends in one line, before anything is read."""

from __future__ import annotations

import signal

import pytest

from ocp_scn import checkpoint, report
from ocp_scn.data import __main__ as data
from ocp_scn.data.folder import new_folder
from ocp_scn.fairchem.files import written_whole
from ocp_scn.options import status_of
from ocp_scn.signals import ending
from ocp_scn.submission import __main__ as submission

CONVERT = ["convert", "in", "out"]
SAMPLE = ["sample", "out"]
STATS = ["stats", "in"]


@pytest.mark.parametrize(
    ("words", "option", "values"),
    [
        (CONVERT, "--min-distance", ["nan", "inf", "-inf", "-0.5", "0", "1e9", "wide", ""]),
        (CONVERT, "--max-atoms", ["0", "-3", "2.5", "1e3", "nan", "many", ""]),
        (CONVERT, "--max-num-elements", ["0", "1", "-90", "90.5", "inf"]),
        (CONVERT, "--seed", ["0.5", "nan", "1_0", "seed", "9" * 5000]),
        (STATS, "--cutoff", ["nan", "inf", "-1", "0", "31", "far", ""]),
        (STATS, "--max-num-neighbors", ["0", "-1", "2.5", "many", ""]),
        (SAMPLE, "--systems", ["0", "9", "-10", "12.0", "nan"]),
        (SAMPLE, "--seed", ["-1", "0.5", "inf", "one"]),
        (SAMPLE, "--ood-systems", ["-1", "0.5", "nan"]),
    ],
)
def test_numbers(words, option, values, capsys):
    for value in values:
        with pytest.raises(SystemExit) as caught:
            data.main([*words, f"{option}={value}"])
        assert caught.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith(f"error: argument {option}: got {value!r}; expected ")


@pytest.mark.parametrize("share", ["nan", "inf", "-0.1", "0", "1", "1.5", "every:0:0", "every:2:2"])
def test_shares_of_a_split(share, capsys, tmp_path):
    (tmp_path / "in.traj").touch()
    words = [str(tmp_path / "in.traj"), str(tmp_path / "out"), f"--split=val={share}"]
    assert data.main(["convert", *words]) == 2
    assert capsys.readouterr().err == (
        f"error: --split 'val={share}'; expected NAME=0.1, NAME=sids:a,b or NAME=every:10:5\n"
    )


@pytest.mark.parametrize("main", [data.main, submission.main, checkpoint.main, report.main])
@pytest.mark.parametrize("words", [[], ["--wrong"], ["nothing", "of", "this"]])
def test_words_that_are_none_of_a_command(main, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_command_where_it_is(number, tmp_path, capsys, monkeypatch):
    """In a file that it writes, and between a folder and the one in its place; the old ones stay."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    (folder / "old").mkdir(parents=True)

    def write():
        with written_whole(file) as part, part.open("w") as opened:
            opened.write("new")
            signal.raise_signal(number)

    rename = type(folder).rename

    def replace():
        with new_folder(folder, overwrite=True):
            monkeypatch.setattr(type(folder), "rename", rename_one)

    def rename_one(path, target):
        rename(path, target)
        monkeypatch.undo()
        signal.raise_signal(number)

    answers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    for work in (write, replace):
        assert status_of(work) == 128 + number
        line = f"ended by {number.name}: no file is half written, and the same command begins anew\n"
        assert capsys.readouterr().err == line
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]
        assert file.read_text() == "old"
        assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == answers
        assert ending.number is None  # or a training that this process begins next would end at once
