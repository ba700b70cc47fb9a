"""What measures on GPUs, as far as a CPU shows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import counts, scaling, speed
from benchmarks.devices import CPU, float32_products, launches_and_waits, matrix_product_rate

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
COMMANDS = pytest.mark.parametrize("command", [speed, scaling, counts])


def refusal(command, words, capsys):
    """Return the one line with which a command ends, with status 2."""
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@NO_GPU
@COMMANDS
def test_without_a_gpu_commands_say_so(command, capsys):
    assert "--device cuda: this machine has no CUDA device" in refusal(command, ["--device", "cuda"], capsys)


@COMMANDS
@pytest.mark.parametrize("option", ["--precision", "--dtype"])
def test_a_cpu_has_no_tf32(command, option, capsys):
    assert "TF32 goes with --device cuda" in refusal(command, [option, "tf32"], capsys)


def test_ranks_are_of_cpus(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "ranks are measured on CPUs" in refusal(scaling, ["--device", "cuda", "--ranks", "2"], capsys)


def test_launches_and_waits_are_those_of_a_profile():
    named = {
        "cudaLaunchKernel": 5, "cudaLaunchKernelExC": 3, "cuLaunchKernel": 2, "cuLaunchKernelEx": 1,
        "cudaStreamSynchronize": 4, "cudaDeviceSynchronize": 1, "cudaMemcpyAsync": 9, "aten::mm": 7,
        "cudaEventRecord": 2,
    }  # fmt: skip
    events = [SimpleNamespace(key=key, count=count) for key, count in named.items()]
    assert launches_and_waits(iter(events)) == {"launches": 11, "waits": 4}
    with profile(activities=[ProfilerActivity.CPU]) as found:
        torch.ones(3).sum().item()
    assert launches_and_waits(found.key_averages()) == {"launches": 0, "waits": 0}


def test_tf32_lasts_for_its_block():
    before = torch.get_float32_matmul_precision()
    with float32_products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with float32_products("float32"):
            assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before


def test_a_cpu_measures():
    on = CPU()
    assert on.seconds(lambda: None) < 1
    assert on.peak_bytes(lambda: torch.ones(2**24)) > 0.9 * 2**26
    assert on.calls(lambda: None) == {}
    assert matrix_product_rate(on, "float32") > 1e8


def test_the_table_has_launches_where_there_are_some():
    record = {
        "model": "ours t1-b1",
        "call": "inference",
        "seconds": 2.0,
        "spread": [1.0, 3.0],
        "bytes": 2**20,
    }
    assert "launches" not in speed.results_table([record])
    printed = speed.results_table([{**record, "launches": 700, "waits": 2}])
    assert "| of the limit | launches | waits |" in printed
    assert "| 700 | 2 |" in printed
