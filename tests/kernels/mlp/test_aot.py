"""The kernel compiled ahead of time, for GPUs that are not here: nothing spills in what runs by default."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from kernels.emsa_upsample.tuning import EXPECTED
from kernels.gpus import STACKS, most_shared
from kernels.mlp import tuning
from tests.support.sweeps import swept

ROOT = Path(__file__).resolve().parents[3]
FP16, BF16 = ([*product(STACKS["cuda13"], [dtype], tuning.CHANNELS)] for dtype in tuning.DTYPES)
QUICK = (90, "fp16", 96)
# fp16 and bf16 are multiplied by the same instructions; two widths that are a power of two and not one stand for all
SWEPT = [case for case in FP16 if case[2] in (96, 256)]
CASES = [
    *swept(SWEPT, lambda case: case == QUICK),
    *(pytest.param(*case, marks=pytest.mark.trials) for case in (*FP16, *BF16) if case not in SWEPT),
]

# A process of its own: elsewhere among the tests Triton may interpret.
COMPILE = """
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels import assembler
from kernels.emsa_upsample.tuning import powers_of_two
from kernels.mlp import forward, tuning

capability, dtype, channels, cubin = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
config = tuning.choose(dtype, capability, channels)
first, second = powers_of_two(channels)
constants = dict(C=channels, C0=first, C1=second, H=4 * channels, BLOCK_T=config.block_t, BLOCK_H=config.block_h)
constants |= dict(GELU=config.gelu, APPROXIMATE=True, UPCAST=False)
names = forward._mlp.arg_names
types = {name: f"*{dtype}" for name in ("x", "w1", "b1", "w2", "b2", "out")} | {"x_t": "i32", "tokens": "i32"}
types |= dict.fromkeys(constants, "constexpr")
by_16 = [name for name in types if types[name][0] == "*" or name == "x_t"]
divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in by_16}
source = ASTSource(
    fn=forward._mlp, signature={name: types[name] for name in names}, constexprs=constants, attrs=divisible
)
options = dict(num_warps=config.num_warps, num_stages=config.num_stages, ptx_options="--opt-level 3")
if config.registers:
    options["maxnreg"] = config.registers
with assembler.newest():
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
cubin.write_bytes(made.asm["cubin"])
print(made.metadata.shared)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("capability", "dtype", "channels"), CASES)
def test_what_runs_by_default_spills_nothing_and_multiplies_on_matrix_units(
    capability, dtype, channels, tmp_path
):
    triton = pytest.importorskip("triton")
    if triton.__version__ < "3.3":
        pytest.skip("the cuda12 stack is for older GPUs")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    cubin = tmp_path / "kernel.cubin"
    command = [sys.executable, "-c", COMPILE, str(capability), dtype, str(channels), str(cubin)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) <= most_shared(capability)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

    def told(*arguments: str) -> str:
        tool, *rest = arguments
        return subprocess.run([tools / tool, *rest, cubin], check=True, capture_output=True, text=True).stdout

    usage = dict(re.findall(r"\b(STACK|LOCAL):(\d+)", told("cuobjdump", "-res-usage")))
    assert usage == {"STACK": "0", "LOCAL": "0"}
    assert str(EXPECTED["cuda13", capability, dtype]) in told("nvdisasm", "-c")
