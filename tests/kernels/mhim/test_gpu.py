"""What only a GPU can show of MHIM's kernels: that what the compiler made of them is right. `make test-gpu`."""

import random

import pytest
import torch

from kernels.device import capability
from kernels.emsa_upsample import op as core
from kernels.emsa_upsample.op_backward import why_not as why_no_backward
from kernels.mhim import backward, backward_tuning, op, reference, tuning
from tests.support.gradients import check, random_gradient
from tests.support.mhim import call_of, problem, random_problem
from tests.support.on_gpu import CUDA, HALVES, NEEDS_GPU, held, moved, same_bits, same_from_a_graph
from tests.support.sweeps import swept

pytestmark = [*NEEDS_GPU, pytest.mark.usefixtures("ieee")]
PROBLEMS = swept(range(200), lambda seed: seed < 10)
STAGES = [  # heads, head width, size, reduction: those with MHIM of T and L at 224×224, a cropped map, many keys
    *[
        (2, 96, (28, 28), 4),
        (4, 96, (14, 14), 2),
        (8, 96, (7, 7), 1),
        (2, 64, (56, 56), 8),
        (8, 64, (14, 14), 2),
    ],
    *[(2, 96, (27, 30), 4), (2, 64, (100, 90), 4)],
]


def offered(tensors, geometry):
    """What `tuning` offers on this GPU for the tensors."""
    heads = geometry["heads"]
    shape = (tensors[0].shape[-1] // heads, geometry["reduction"], heads, tensors[1].shape[1])
    return tuning.candidates(op.DTYPES[tensors[0].dtype], capability(CUDA), *shape), shape


def within(tensors, geometry, *configs):
    """Hold the forward by each configuration to eager's own error."""
    call = call_of(tensors, geometry)
    held(lambda config: op.launch(config, call), configs, reference.mhim, tensors, geometry)


def stage(number, dtype, *, branch=True, batch=2):
    """A stage's tensors on the GPU, and its geometry."""
    torch.manual_seed(number)
    heads, head_dim, size, reduction = STAGES[number]
    tensors, geometry = problem(
        heads, size, reduction, head_dim=head_dim, batch=batch, branch=branch, dtype=torch.float32
    )
    return moved(x if x is None else x.to(dtype) for x in tensors), geometry


@pytest.mark.parametrize("seed", PROBLEMS)
def test_forward_is_within_eagers_own_error(seed, margins):
    tensors, geometry, _ = random_problem(seed)
    if why := core.why_not(CUDA, tensors[0].dtype):
        pytest.skip(why)
    tensors = moved(tensors)
    within(tensors, geometry, random.Random(seed).choice(offered(tensors, geometry)[0]))
    assert all(margin.isnan().all() for margin in margins)


def held_backward(tensors, geometry, grad, config):
    """Hold the gradients to eager's own error."""

    def find(tensors, grad):
        return backward.launch_backward(config, call_of(tensors, geometry), grad)

    check(find, reference.mhim, tensors, geometry, grad)


@pytest.mark.parametrize("seed", PROBLEMS)
def test_backward_is_within_eagers_own_error(seed, margins):
    tensors, geometry, _ = random_problem(seed)
    chosen = random.Random(seed)
    dtype = chosen.choice(HALVES)
    if why := why_no_backward(CUDA, dtype):
        pytest.skip(why)
    small = tensors[5] is not None and tensors[2].numel() and tensors[2].float().std() < 0.01
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    # LayerNorm makes the gradients of small values large, in fp16 infinite
    (grad,) = moved([random_gradient(chosen, tensors[0], 1e-3 if small else 1.0)])
    tensors = moved(tensors)
    config = backward_tuning.choose(capability(CUDA), *offered(tensors, geometry)[1])
    held_backward(tensors, geometry, grad, config)
    assert all(margin.isnan().all() for margin in margins)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("number", range(len(STAGES)), ids=lambda number: str(STAGES[number]))
def test_the_stages_of_the_models(number, dtype):
    """Every tile within eager's own error; what runs gives the same bits 1000 times, forward and backward."""
    if why := why_no_backward(CUDA, dtype):
        pytest.skip(why)
    for branch in (True, False):
        tensors, geometry = stage(number, dtype, branch=branch)
        configs, shape = offered(tensors, geometry)
        within(tensors, geometry, *configs)
        call = call_of(tensors, geometry)
        assert same_bits(1000, op.launch, configs[0], call)
        grad = torch.randn_like(tensors[0])
        config = backward_tuning.choose(capability(CUDA), *shape)
        held_backward(tensors, geometry, grad, config)
        assert same_bits(1000, backward.launch_backward, config, call, grad)


def test_in_a_cuda_graph():
    tensors, geometry = stage(0, torch.float16)
    assert same_from_a_graph(lambda: op.mhim(*tensors, **geometry))
