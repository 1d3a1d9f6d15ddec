"""Tests that need Triton's interpreter, run in a process of their own.

Triton decides when it is imported whether it interprets, so TRITON_INTERPRET=1 must be set before, and stays set.
Such tests are in files that pytest does not collect by itself; a test that it does collect runs a share of one here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARE = "TESTS_SHARE"  # in the environment: number of the share, a slash, number of shares


def run_interpreted(file: str, share: str = "0/1", *, sweeps: bool = True) -> None:
    """Run the tests of `file` where Triton was imported to interpret; all of them must pass.

    Args:
        share: of its problems, as number/shares.
        sweeps: those that are sweeps too.
    """
    which = "not gpu" if sweeps else "not gpu and not sweep"
    command = [sys.executable, "-m", "pytest", "-q", file, "-p", "no:cacheprovider", "-m", which]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", SHARE: share}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def round_to_bf16() -> None:
    """Make the interpreter round fp32 to the nearest bf16, as GPUs do. It truncates, which doubles the error."""
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values, source, target, mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        return torch.tensor(values).to(torch.bfloat16).view(torch.uint16).numpy()

    interpreter._convert_float = rounded


def of_this_share(numbers: range) -> range:
    """The numbers that this process is to take, every n-th of them: all where nobody shares."""
    share, shares = map(int, os.environ.get(SHARE, "0/1").split("/"))
    return numbers[share::shares]
