"""The backward operator in Triton's interpreter: its registration, torch.compile, and the forward's gradient."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.emsa_upsample import op, op_backward, reference
from tests.support import op_backward as checks
from tests.support.emsa_upsample import call_of, problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

HALVES = (torch.float16, torch.bfloat16)
OPERATOR = checks.Operator("emsa_upsample", op.emsa_upsample, op_backward.gradients, reference.gradients)


def small(**kind):
    """A map of 3×5 that the reduction does not divide, in fp16 if nothing else is said."""
    torch.manual_seed(0)
    return problem(2, (3, 5), **{"dtype": torch.float16, **kind})


def in_windows():
    """The same map in two windows of 4×4, which have four keys each."""
    tensors, geometry = small()
    tensors[1:3] = torch.randn(2, 2 * 2, 4, 32).half()
    return tensors, geometry | {"window": 4}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_opcheck(dtype, bias):
    checks.check_registration(OPERATOR, call_of(*small(dtype=dtype, bias=bias)))


def test_opcheck_in_windows():
    checks.check_registration(OPERATOR, call_of(*in_windows()))


@pytest.mark.parametrize(("bias", "windowed"), [(True, False), (False, False), (True, True)])
def test_the_forwards_gradient_is_the_operators(bias, windowed):
    checks.check_called(OPERATOR, *(in_windows() if windowed else small(bias=bias)))


def test_fp32_is_left_to_the_reference():
    checks.check_fp32(OPERATOR, *small(dtype=torch.float32))


def test_nothing_is_saved_but_the_inputs():
    checks.check_saved(OPERATOR, *small())


def test_a_step_compiles_to_one_graph():
    checks.check_compiled(OPERATOR, *small())


def test_under_autocast_parameters_have_gradients_in_their_own_dtype():
    checks.check_autocast(OPERATOR, *small(dtype=torch.float32))
