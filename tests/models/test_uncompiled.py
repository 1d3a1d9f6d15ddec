"""timm and torchvision without the compiler: their imports leave it out, and it is there for whoever calls it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.machine.provenance import ROOT
from tests.support.sweeps import sweep

IMPORTS = """
import sys
import models.peers
assert "torchvision" in sys.modules and "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
import torch
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
expected = roi_align(torch.ones(1, 1, 8, 8), boxes, 2)
torch.use_deterministic_algorithms(True)
assert torch.equal(roi_align(torch.ones(1, 1, 8, 8), boxes, 2), expected)
"""
LATER = """
import sys
from models.uncompiled import without_compiler
with without_compiler():
    from torch._dynamo.utils import is_compile_supported
    from torch.compiler import disable
    doubled = disable(lambda x: 2 * x)
    assert "torch._dynamo.config" not in sys.modules
    {inside}
assert doubled(3) == 6
import torch._dynamo
assert torch._dynamo.__file__ and torch._dynamo.config
assert is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
"""


def run(program: str) -> None:
    """Run a program in a process that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@sweep
def test_importing_timm_leaves_the_compiler_out_and_what_asks_for_it_works():
    run(IMPORTS)


@sweep
@pytest.mark.parametrize("inside", ["pass", "from torch._dynamo import config"], ids=["after", "meanwhile"])
def test_the_compiler_itself_comes_as_soon_as_it_is_needed(inside):
    run(LATER.format(inside=inside))
