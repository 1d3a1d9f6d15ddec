"""Which ptxas our kernels are assembled by. What it makes of them is `test_aot.py`'s."""

import os
from pathlib import Path
from types import SimpleNamespace

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


def instance(registers, spills):
    """What Triton has of a kernel that it loaded."""
    return SimpleNamespace(n_regs=registers, n_spills=spills)


def test_registers_are_those_of_what_was_launched_since_it_was_told_to_forget(monkeypatch):
    kernel = forward._emsa_statistics
    instances = {"of heads": instance(128, 0), "of phases": instance(200, 2)}
    monkeypatch.setattr(assembler, "_KERNELS", [kernel])
    loaded: dict = {0: (instances, {}, None)}
    monkeypatch.setattr(assembler, "_loaded", lambda kernel: loaded)
    name = kernel.fn.__name__
    assert assembler.assembled() == {f"registers of {name}": 200, f"spills of {name}": 2}
    instances.clear()
    instances["late"] = SimpleNamespace(result=lambda: instance(90, 4))  # compiled in the background
    assert assembler.assembled() == {f"registers of {name}": 90, f"spills of {name}": 4}
    assembler.forget()
    assert assembler.assembled() == {}


def test_instances_are_found_where_triton_keeps_them():
    before = SimpleNamespace(cache={0: {"key": instance(1, 0)}})  # Triton 3.1
    now = SimpleNamespace(device_caches={0: ({"key": instance(1, 0)}, {})})
    assert assembler._loaded(before) is before.cache
    assert assembler._loaded(now) is now.device_caches
    assert forward._emsa_statistics in assembler._KERNELS
    assert isinstance(assembler._loaded(forward._emsa_statistics), dict)
