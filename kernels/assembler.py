"""The assembler of our kernels: the newest ptxas that Triton brings.

Triton 3.6.0 assembles for GPUs before sm_100 by ptxas 12.8, and for later ones by ptxas 12.9, and its wheel has both.
On Hopper, ptxas 12.8.93 drops a move: where two products read operands from the same place in shared memory, swizzled
128 bytes wide for one and 64 for the other, as heads of 96 = 64 + 32 channels do, the second gets its address from a
uniform register that nothing has written. On an H100 the results were wrong by hundreds of times eager's error, and
other runs ended in illegal memory accesses; 12.9 writes the register. `kernels.sass.undefined` finds such reads in
what was assembled, and `make kernels` fails of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import triton
from triton.runtime.jit import JITFunction

try:
    from triton import knobs
except ImportError:  # Triton 3.1, which has one ptxas
    knobs = None

# ptxas's own default. Given explicitly it changes nothing but the key under which Triton keeps what was compiled, which
# does not say by which ptxas.
_OPTIONS = "--opt-level 3"
_KERNELS: list[JITFunction] = []  # all of ours, as they are decorated


def jit(**settings: Any) -> Any:
    """`triton.jit`, with the newest assembler: a decorator."""

    def decorate(function: Any) -> Any:
        kernel = triton.jit(function, **settings)
        if isinstance(kernel, JITFunction):
            _KERNELS.append(kernel)
        if knobs is not None and type(kernel) is JITFunction:  # the interpreter has its own
            kernel.__class__ = _NewlyAssembled
        return kernel

    return decorate


def forget() -> None:
    """Have this process load each kernel anew where it is launched next, so that `assembled` tells what ran since."""
    for kernel in _KERNELS:
        _loaded(kernel).clear()


def assembled() -> dict[str, int]:
    """Registers of a thread, and what spills of them, of each kernel that this process launched since `forget`.

    As the driver tells them; of a kernel's instances the most.
    """
    found: dict[str, int] = {}
    for kernel in _KERNELS:
        for of_device in _loaded(kernel).values():
            instances = of_device[0] if isinstance(of_device, tuple) else of_device
            for instance in instances.values():
                instance = instance.result() if hasattr(instance, "result") else instance
                for what, count in (("registers", instance.n_regs), ("spills", instance.n_spills)):
                    name = f"{what} of {kernel.fn.__name__}"
                    found[name] = max(found.get(name, 0), count or 0)
    return found


def _loaded(kernel: JITFunction) -> dict[Any, Any]:
    """The loaded instances of a kernel, by device: a mapping by key, or, since 3.2, a tuple that begins with it."""
    return getattr(kernel, "device_caches", None) or getattr(kernel, "cache", {})


@contextlib.contextmanager
def newest() -> Iterator[None]:
    """Have Triton assemble by its newest ptxas, unless TRITON_PTXAS_PATH names another."""
    if knobs is None:
        yield
        return
    with knobs.nvidia.scope():
        if "TRITON_PTXAS_PATH" not in os.environ and "ptxas" not in vars(knobs.nvidia):
            knobs.nvidia.ptxas = knobs.nvidia.ptxas_blackwell.path
        yield


class _NewlyAssembled(JITFunction):
    """A kernel that is compiled under `newest`."""

    def _do_compile(
        self, key: Any, signature: Any, device: Any, constexprs: Any, options: Any, attrs: Any, warmup: Any
    ) -> Any:
        options = replace(options, ptx_options=" ".join(filter(None, (options.ptx_options, _OPTIONS))))
        with newest():
            return super()._do_compile(key, signature, device, constexprs, options, attrs, warmup)
