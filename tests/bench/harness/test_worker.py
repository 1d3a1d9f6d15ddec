"""What the worker refuses to time, and what it takes for want of memory. In this process, without a run."""

import pytest
import torch

from bench.cases import parse
from bench.errors import Wrong
from bench.harness import prepare as preparing
from bench.harness.device import out_of_memory
from bench.jobs import expected_s, job_of
from bench.machine.devices import cpu_device
from bench.protocols import PROTOCOLS
from bench.runner import _whole

CPU = torch.device("cpu")
NETS = """
import torch


class Crowded(torch.nn.Module):
    def forward(self, x):
        out = x.mean((2, 3))
        return out / 0 if len(x) > 2 else out
"""


def prepare(text):
    return preparing.prepare(parse(text), 1, CPU, lambda phase: None, preparing.Spent())


def test_the_whole_batch_is_checked_not_only_its_first_images(tmp_path, monkeypatch):
    (tmp_path / "crowded_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    assert prepare("crowded_nets:Crowded@32:b2").check == {"against": "finite and of the right shape"}
    with pytest.raises(Wrong, match="not finite"):
        prepare("crowded_nets:Crowded@32:b3")


def test_compile_without_a_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        prepare("restv2_lite@32:b1:fp32:compile")


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_what_is_taken_for_want_of_memory(error, memory):
    assert out_of_memory(error) is memory


@pytest.mark.parametrize(
    "damage", [{}, {"spent": None}, {"spent": {}, "protocol": {}}, {"spent": 3, "protocol": 4}]
)
def test_a_row_that_somebody_damaged_is_neither_used_nor_in_the_way(damage):
    rules = PROTOCOLS["default"]["cpu"]
    job = job_of("throughput", cpu_device(), rules, parse("restv2_lite"))
    row = {"harness": job.harness, "case": job.text, "outcome": "ok", **damage}
    assert not _whole(row)
    assert expected_s(job, [row], cpu_device()) > 0
