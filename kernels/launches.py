"""The launches of an operator, as data: kernels to compile ahead of time, how often each runs, what must come of it.

A package of kernels offers its calls as `calls(stack, quick)` in a module that `kernels.aot.OPERATORS` names. No
torch, no Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

Constant = int | bool | str


@dataclass(frozen=True)
class Kernel:
    """One kernel as a launch specialises it.

    Parameters that are neither in `constants` nor in `types` are i32. All three may name parameters that this kernel
    does not have, so that the kernels of a package can share them.
    """

    function: str  # "module:function"
    capability: int
    types: tuple[tuple[str, str], ...]  # by parameter: "*fp16", "fp32", …
    aligned: frozenset[str]  # that 16 divides, as Triton finds out: pointers of torch, strides
    constants: tuple[tuple[str, Constant], ...]
    num_warps: int
    num_stages: int
    # the matrix instruction that it must have, maybe beside another; "" where it needs none
    multiplies: str = ""
    may_spill: int = 0  # bytes a thread: it was measured to be fastest in spite of them
    max_registers: int | None = None  # that a thread may take; default: as many as there are

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.partition(":")[2]


@dataclass(frozen=True)
class Launch:
    """A kernel, and how often it is run in a call."""

    kernel: Kernel
    programs: int
    # rounds of each loop, on average, by the names of `kernels.sass.loops_in`
    trips: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Call:
    """A call of an operator for a batch, with one configuration.

    `results` is what instructions and bytes are given for: one that somebody asked for, not a slot of a tile that
    happens to hold none. Bytes and MACs are of the whole call.
    """

    operator: str
    result: str  # what one is: "query and head", "token"
    of: str  # the problem in a model: "ResTv2-T, stage 1 at 224"; "" where no model has it
    shape: str  # the problem in numbers: "D=96 r=8 heads=1 keys=49"
    config: str
    is_default: bool  # it is what runs, so that it has a bound and a place in bounds.csv
    capability: int
    precision: str
    results: int
    least_bytes: int  # of DRAM, whatever computes it: inputs and outputs once
    moved_bytes: int  # of DRAM by these launches, with what one of them leaves for another
    macs: int  # of matrix products, without padding
    times: int  # that a forward pass of the model makes such a call
    launches: tuple[Launch, ...]
