"""Times of the operators, on sizes that take no time."""

from benchmarks.operators import main
from benchmarks.store import read_json
from ocp_scn.ops.library import SCHEMAS


def test_every_operator_is_timed_and_right(tmp_path, capsys):
    sizes = {"atoms": 3, "lmax": 2, "taps": 4, "channels": 3, "hidden": 4, "repeats": 1}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    assert main([*options, "--edges", "5", "7", "--results", str(tmp_path / "operators.json")]) == 0
    found = read_json(tmp_path / "operators.json")
    names = {call["operator"].split(",")[0] for call in found["calls"]}
    assert names == {name for name in SCHEMAS if not name.endswith("_")}
    assert {call["edges"] for call in found["calls"]} == {5, 7}
    assert all(call["difference"] < 1e-5 and call["seconds"] > 0 for call in found["calls"])
    assert "| edge_to_node, 2 ends |" in capsys.readouterr().out
