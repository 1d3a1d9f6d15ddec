"""The backward operator in Triton's interpreter: its registration, torch.compile, and the forward's gradient."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.mhim import op, op_backward, reference
from tests.support import op_backward as checks
from tests.support.mhim import call_of, problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

HALVES = (torch.float16, torch.bfloat16)
OPERATOR = checks.Operator("mhim", op.mhim, op_backward.gradients, reference.gradients)


def small(**kind):
    """A map of 3×5 that the reduction does not divide, in fp16 if nothing else is said."""
    torch.manual_seed(0)
    return problem(**{"dtype": torch.float16, **kind})


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_opcheck(dtype, branch):
    checks.check_registration(OPERATOR, call_of(*small(dtype=dtype, branch=branch)))


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_forwards_gradient_is_the_operators(bias, branch):
    tensors, geometry = small(branch=branch)
    if not bias:
        tensors[4] = tensors[6] = None
    checks.check_called(OPERATOR, tensors, geometry)


def test_fp32_is_left_to_the_reference():
    checks.check_fp32(OPERATOR, *small(dtype=torch.float32))


def test_nothing_is_saved_but_the_inputs():
    checks.check_saved(OPERATOR, *small())


def test_a_step_compiles_to_one_graph():
    checks.check_compiled(OPERATOR, *small())


def test_under_autocast_parameters_have_gradients_in_their_own_dtype():
    checks.check_autocast(OPERATOR, *small(dtype=torch.float32))
