"""What only a GPU can show of the core's kernels: that what the compiler made of them is right. `make test-gpu`."""

import random

import pytest
import torch

from kernels.device import capability
from kernels.emsa_upsample import backward, backward_tuning, cost, op, reference, tuning
from kernels.emsa_upsample.op_backward import why_not as why_no_backward
from tests.support.emsa_upsample import DTYPES, call_of, random_problem
from tests.support.gradients import check, random_gradient
from tests.support.on_gpu import CUDA, HALVES, NEEDS_GPU, held, moved, same_bits, same_from_a_graph
from tests.support.sweeps import swept

pytestmark = [*NEEDS_GPU, pytest.mark.usefixtures("ieee")]
PROBLEMS = swept(range(200), lambda seed: seed < 10)
WINDOWED = pytest.mark.parametrize("windowed", [False, True])
SHAPES = [  # batch, heads, head width, size, reduction: stages of T and L, cropped ones, one key, many keys
    *[(2, 1, 96, (56, 56), 8), (2, 2, 96, (28, 28), 4), (1, 4, 96, (14, 14), 2), (1, 8, 96, (7, 7), 1)],
    *[(2, 2, 64, (56, 56), 8), (1, 4, 64, (28, 28), 4), (1, 8, 64, (14, 14), 2), (1, 2, 64, (27, 31), 4)],
    *[(1, 3, 48, (13, 5), 2), (1, 2, 112, (11, 3), 1), (1, 1, 96, (200, 336), 8), (1, 2, 96, (100, 168), 4)],
    (1, 1, 128, (33, 17), 8),
    *[(3, 2, 16, (1, 1), 8), (0, 1, 96, (56, 56), 8)],
]
MAP = (100, 168)  # of an image of 800×1344 in stage 2: no multiple of a window
IN_WINDOWS = [(1, 96, 8), (2, 96, 4), (4, 96, 2), (8, 96, 1), (2, 64, 8), (4, 64, 4), (8, 64, 2)]


def offered(tensors, geometry):
    """What `tuning` offers on this GPU for the tensors."""
    heads, head_dim, reduction, keys = geometry_of(tensors, geometry)
    dtype, windowed = op.DTYPES[tensors[0].dtype], "window" in geometry
    return tuning.candidates(
        dtype, capability(CUDA), head_dim, reduction, heads, keys, op.TRITON, windowed=windowed
    )


def offered_backward(tensors, geometry):
    """The same for the gradients."""
    _, head_dim, reduction, keys = geometry_of(tensors, geometry)
    return backward_tuning.candidates(
        capability(CUDA), head_dim, reduction, keys, windowed="window" in geometry
    )


def geometry_of(tensors, geometry):
    heads = geometry["heads"]
    return heads, tensors[0].shape[-1] // heads, geometry["reduction"], tensors[1].shape[1]


def within(tensors, geometry, configs):
    """Hold the forward by each configuration to eager's own error."""
    call = call_of(tensors, geometry)
    held(lambda config: op.launch(config, call), configs, reference.emsa_upsample, tensors, geometry)


def of_shape(shape, dtype, window=None):
    """Tensors on the GPU and geometry."""
    torch.manual_seed(0)
    batch, heads, head_dim, size, reduction = shape
    channels, regions = heads * head_dim, batch * (cost.windows_of(size, window) if window else 1)
    grid = cost.ceil_div((window, window) if window else size, reduction)
    shapes: list[tuple[int, ...]] = [(batch, size[0] * size[1], channels)]
    shapes += [(regions, grid[0] * grid[1], channels)] * 2
    shapes += [(channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)]
    geometry = {"heads": heads, "size": size, "reduction": reduction} | ({"window": window} if window else {})
    return [torch.randn(shape, device=CUDA).to(dtype) for shape in shapes], geometry


def skip_where(why):
    if why:
        pytest.skip(why)


def held_backward(tensors, geometry, grad, config):
    """Hold the gradients to eager's own error."""

    def find(tensors, grad):
        return backward.launch_backward(config, call_of(tensors, geometry), grad)

    check(find, reference.emsa_upsample, tensors, geometry, grad)


@WINDOWED
@pytest.mark.parametrize("seed", PROBLEMS)
def test_forward_is_within_eagers_own_error(seed, windowed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, _ = random_problem(seed, windowed)
    skip_where(op.why_not(CUDA, tensors[0].dtype))
    tensors = moved(tensors)
    within(tensors, geometry, [random.Random(seed).choice(offered(tensors, geometry))])
    assert all(margin.isnan().all() for margin in margins)


@WINDOWED
@pytest.mark.parametrize("seed", PROBLEMS)
def test_backward_is_within_eagers_own_error(seed, windowed, margins):
    tensors, geometry, _ = random_problem(seed, windowed)
    chosen = random.Random(seed)
    dtype = chosen.choice(HALVES)
    skip_where(why_no_backward(CUDA, dtype))
    small = tensors[2].numel() and tensors[2].float().std() < 0.01
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    # LayerNorm makes the gradients of small values large, in fp16 infinite
    (grad,) = moved([random_gradient(chosen, tensors[0], 1e-3 if small else 1.0)])
    tensors = moved(tensors)
    config = chosen.choice(offered_backward(tensors, geometry))
    held_backward(tensors, geometry, grad, config)
    assert all(margin.isnan().all() for margin in margins)


def every_tile(tensors, geometry):
    """Every tile within eager's own error; what runs gives the same bits 1000 times, another one 10 times."""
    call, configs = call_of(tensors, geometry), offered(tensors, geometry)
    within(tensors, geometry, configs if tensors[0].numel() else [])
    for place, config in enumerate(configs):
        assert same_bits(10 if place else 1000, op.launch, config, call), config
    if why_no_backward(CUDA, tensors[0].dtype):
        return
    grad = torch.randn_like(tensors[0])
    for place, config in enumerate(offered_backward(tensors, geometry)):
        held_backward(tensors, geometry, grad, config)
        assert same_bits(10 if place else 1000, backward.launch_backward, config, call, grad), config


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_stages_of_the_models(shape, dtype):
    skip_where(op.why_not(CUDA, dtype))
    every_tile(*of_shape(shape, dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", IN_WINDOWS, ids=str)
def test_the_stages_of_the_models_in_windows(kind, dtype):
    skip_where(op.why_not(CUDA, dtype))
    heads, head_dim, reduction = kind
    every_tile(*of_shape((1, heads, head_dim, MAP, reduction), dtype, 8 * reduction))


def test_in_a_cuda_graph():
    tensors, geometry = of_shape((2, 2, 96, (28, 28), 4), torch.float32)
    assert same_from_a_graph(lambda: op.emsa_upsample(*tensors, **geometry))
