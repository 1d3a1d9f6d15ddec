"""NVIDIA's compute-sanitizer over one call of each kernel: reads and writes out of bounds, races. `make test-gpu`."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.on_gpu import NEEDS_GPU

pytestmark = NEEDS_GPU


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        pytest.skip("compute-sanitizer is not here")
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # each tensor has its own bounds
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
    command += [sys.executable, "-m", "tests.support.one_call_each"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "every kernel was called" in done.stdout
