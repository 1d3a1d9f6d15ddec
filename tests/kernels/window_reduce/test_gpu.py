"""What only a GPU can show of the reduction inside windows: that what the compiler made of it is right."""

import random

import pytest
import torch

from kernels.device import capability
from kernels.emsa_upsample import op as core
from kernels.window_reduce import launch, reference, tuning
from tests.support.gradients import check, random_gradient
from tests.support.on_gpu import CUDA, HALVES, NEEDS_GPU, held, moved, same_bits
from tests.support.sweeps import swept
from tests.support.window_reduce import call_of, random_problem

pytestmark = [*NEEDS_GPU, pytest.mark.usefixtures("ieee")]
PROBLEMS = swept(range(200), lambda seed: seed < 10)
STAGES = [(96, 8), (192, 4), (384, 2), (128, 8), (256, 4), (512, 2)]  # channels and reduction, of T and of L
SIZE = (75, 90)  # no multiple of a window


def within(tensors, geometry, *configs):
    """Hold the forward by each configuration to eager's own error."""
    call = call_of(tensors, geometry)
    held(lambda config: launch.launch(config, call), configs, reference.window_reduce, tensors, geometry)


def held_backward(tensors, geometry, grad, config):
    """Hold the gradients to eager's own error."""

    def find(tensors, grad):
        return launch.launch_backward(config, call_of(tensors, geometry), grad)

    check(find, reference.window_reduce, tensors, geometry, grad)


@pytest.mark.parametrize("seed", PROBLEMS)
def test_within_eagers_own_error(seed, margins):
    """Forward and backward; nothing outside is written, for the margins keep their poison."""
    tensors, geometry = random_problem(seed)
    if why := core.why_not(CUDA, tensors[0].dtype):
        pytest.skip(why)
    chosen, channels = random.Random(seed), tensors[0].shape[-1]
    grad = random_gradient(chosen, launch.made(call_of(tensors, geometry)), 1.0)
    tensors, (grad,) = moved(tensors), moved([grad])
    margins.clear()
    within(tensors, geometry, chosen.choice(tuning.candidates(capability(CUDA), channels)))
    held_backward(
        tensors, geometry, grad, chosen.choice(tuning.backward_candidates(capability(CUDA), channels))
    )
    assert all(margin.isnan().all() for margin in margins)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("channels", "reduction"), STAGES)
def test_the_stages_of_the_models(channels, reduction, dtype):
    """Every tile within eager's own error; what runs gives the same bits 1000 times, forward and backward."""
    if why := core.why_not(CUDA, dtype):
        pytest.skip(why)
    torch.manual_seed(reduction)
    geometry = {"size": SIZE, "reduction": reduction, "window": 8 * reduction}
    shapes = [(2, SIZE[0] * SIZE[1], channels), (channels, 1, reduction + 1, reduction + 1), (channels,)]
    tensors = [torch.randn(shape, device=CUDA).to(dtype) for shape in shapes]
    call = call_of(tensors, geometry)
    grad = torch.randn_like(launch.made(call))
    for config in tuning.candidates(capability(CUDA), channels):
        within(tensors, geometry, config)
    for backward in tuning.backward_candidates(capability(CUDA), channels):
        held_backward(tensors, geometry, grad, backward)
    assert same_bits(1000, launch.launch, tuning.choose(capability(CUDA), channels), call)
    assert same_bits(
        1000, launch.launch_backward, tuning.choose_backward(capability(CUDA), channels), call, grad
    )
