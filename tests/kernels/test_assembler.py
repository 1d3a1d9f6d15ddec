"""Which ptxas our kernels are assembled by. What it makes of them is `test_aot.py`'s."""

import os
from pathlib import Path

import pytest
import triton

from kernels import assembler
from kernels.emsa_upsample import forward

pytest.importorskip("triton.knobs", reason="Triton 3.1 has one ptxas")


def ptxas():
    return triton.knobs.nvidia.ptxas


def test_the_newest_of_triton_s_is_taken_and_given_back(monkeypatch):
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    before = ptxas()
    with assembler.newest():
        assert ptxas().version == triton.knobs.nvidia.ptxas_blackwell.version
        assert tuple(map(int, ptxas().version.split("."))) >= (12, 9)
    assert ptxas() == before
    assert "TRITON_PTXAS_PATH" not in os.environ


def test_one_that_the_user_names_is_kept(monkeypatch):
    named = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(named))
    with assembler.newest():
        assert ptxas().path == str(named)


def test_it_is_given_back_after_an_error(monkeypatch):
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    before = ptxas()
    with pytest.raises(RuntimeError), assembler.newest():
        raise RuntimeError
    assert ptxas() == before


def test_kernels_are_compiled_with_it(monkeypatch):
    """Under an option of its own, or Triton's cache could give back what the older one made."""
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    if not isinstance(forward._emsa_upsample, triton.runtime.JITFunction):
        pytest.skip("interpreted")
    seen = []

    def compiled(kernel, key, signature, device, constexprs, options, attrs, warmup):
        seen.append((ptxas().version, options.ptx_options))

    monkeypatch.setattr(triton.runtime.JITFunction, "_do_compile", compiled)
    from triton.backends.nvidia.compiler import CUDAOptions

    forward._emsa_upsample._do_compile("key", {}, 0, {}, CUDAOptions(arch="sm90"), [], True)
    forward._emsa_upsample._do_compile("key", {}, 0, {}, CUDAOptions(arch="sm90", ptx_options="-v"), [], True)
    newest = triton.knobs.nvidia.ptxas_blackwell.version
    assert seen == [(newest, "--opt-level 3"), (newest, "-v --opt-level 3")]
