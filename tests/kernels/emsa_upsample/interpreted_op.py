"""The operator in Triton's interpreter: its registration, gradient, autocast, and a model that calls it."""

import pytest
import torch

from bench.cases import parse
from bench.harness.prepare import Spent, prepare
from kernels.device import INTERPRETED
from kernels.emsa_upsample import launch, op, reference, tuning
from models.attention import Attention
from tests.support.emsa_upsample import call_of, double, off, problem
from tests.support.interpreter import round_to_bf16

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"
round_to_bf16()
LOOP = tuning.Config(32, 16, 4, design="loop", phases=8)


def small(**kind):
    """A map of 3×5 that the reduction does not divide, in fp32 if nothing else is said."""
    torch.manual_seed(0)
    return problem(2, (3, 5), **{"dtype": torch.float32, **kind})


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_autograds(bias):
    tensors, geometry = small()
    if not bias:
        tensors[4] = None
    live = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    upstream = torch.randn(2, 15, 32)
    found = torch.autograd.grad(op.emsa_upsample(*tensors, **geometry), live, upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in live]
    arguments = exact if bias else [*exact[:4], None, *exact[4:]]
    truth = torch.autograd.grad(reference.emsa_upsample(*arguments, **geometry), exact, upstream.double())
    for one, other in zip(found, truth, strict=True):
        assert off(one, other) < 1e-5 * (1 + other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(dtype):
    """Schema, fake tensors, autograd's registration and torch.compile's tracing, forward and backward.

    In bf16 nothing is registered otherwise than in fp16.
    """
    tensors, geometry = small(heads=1, dtype=dtype)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.restv2.emsa_upsample.default, call_of(tensors, geometry))


def test_torch_compile_takes_it_in_one_graph_with_its_backward():
    torch.compiler.reset()
    tensors, geometry = small(heads=1)
    tensors = [tensor.requires_grad_() for tensor in tensors]

    def twice(*tensors):
        return 2 * op.emsa_upsample(*tensors, **geometry)

    found = torch.compile(twice, fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(found, twice(*tensors))
    one, other = (torch.autograd.grad(out.sum(), tensors) for out in (found, twice(*tensors)))
    assert all(map(torch.allclose, one, other))


def test_autocast_casts_as_for_a_product():
    tensors, geometry = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = op.emsa_upsample(*tensors, **geometry)
    assert out.dtype == torch.bfloat16
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    with torch.autocast("cpu", torch.bfloat16):
        eager = reference.emsa_upsample(*tensors, **geometry)
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert op.emsa_upsample(*tensors, **geometry).dtype == torch.float32


def test_a_models_attention():
    eager, fused = (Attention(64, 2, 4, impl=impl) for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    tokens = torch.randn(1, 7 * 10, 64)  # cropped in both directions
    with torch.inference_mode():
        assert off(fused(tokens, (7, 10)), eager(tokens, (7, 10)).double()) < 1e-5


@pytest.mark.parametrize("impl", ["fused", "auto"])
def test_nothing_interpreted_is_measured(impl):
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        prepare(parse(f"restv2_lite@32:b1:fp32:{impl}"), 1, torch.device("cpu"), lambda phase: None, Spent())


@pytest.fixture
def packs(monkeypatch):
    """How often the filters were packed."""
    made: list[None] = []
    pack = launch._pack

    def counted(*arguments):
        made.append(None)
        return pack(*arguments)

    monkeypatch.setattr(launch, "_pack", counted)
    return made


def test_packed_filters_are_kept_until_something_writes_to_what_they_are_of(packs):
    tensors, geometry = small(dtype=torch.float16)
    weight, bias = tensors[3:5]

    def launched():
        """Number of times that filters were packed so far; the result must be right at each."""
        out = op.launch(LOOP, call_of(tensors, geometry))
        truth = reference.emsa_upsample(*double(tensors), **geometry)
        assert off(out, truth) <= 2 * off(reference.emsa_upsample(*tensors, **geometry), truth) + 1e-5
        return len(packs)

    assert [launched(), launched()] == [1, 1]
    weight.mul_(2)
    assert [launched(), launched()] == [2, 2]
    bias.add_(1)
    assert [launched(), launched()] == [3, 3]
    tensors[4] = bias = None  # freed: what comes next may lie at the same place
    assert [launched(), launched()] == [4, 4]
    tensors[4] = torch.ones(len(weight), dtype=torch.float16)
    assert [launched(), launched()] == [5, 5]
    kept = len(launch._KEPT)
    del weight, tensors[3]
    assert len(launch._KEPT) == kept - 1


def test_nothing_is_kept_of_weights_that_count_no_writes(packs):
    with torch.inference_mode():
        tensors, geometry = small(dtype=torch.float16)
        for _ in range(2):
            op.launch(LOOP, call_of(tensors, geometry))
    assert len(packs) == 2


def test_parameters_may_be_wider_than_what_they_are_applied_to():
    """As under autocast: nothing is copied for it but what is packed anyway."""
    tensors, geometry = small(dtype=torch.float32)
    tensors[:3] = [tensor.half() for tensor in tensors[:3]]
    out = op.launch(LOOP, call_of(tensors, geometry))
    half = [tensor.half() for tensor in tensors]
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    assert off(out, truth) <= 2 * off(reference.emsa_upsample(*half, **geometry), truth) + 1e-5


# ---- in windows


def in_windows():
    """An image of 3×5 in two windows of 4×4, with a reduction of 2, in fp32."""
    torch.manual_seed(0)
    shapes = [(1, 15, 16), (2, 4, 16), (2, 4, 16), (64, 1, 3, 3), (64,), (16,), (16,)]
    tensors = [torch.randn(shape).requires_grad_() for shape in shapes]
    return tensors, {"heads": 1, "size": (3, 5), "reduction": 2, "window": 4}


def test_opcheck_in_windows():
    tensors, geometry = in_windows()
    torch.library.opcheck(torch.ops.restv2.emsa_upsample.default, call_of(tensors, geometry))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_in_windows_are_those_of_the_padded_reference(dtype):
    """In half precision by the fused backward, in single by the formulas."""
    tensors, geometry = in_windows()
    live = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    exact, eager = ([x.detach().to(kind).requires_grad_() for x in live] for kind in (torch.float64, dtype))
    upstream = torch.randn(1, 15, 16, dtype=dtype)
    found = torch.autograd.grad(op.emsa_upsample(*live, **geometry), live, upstream)
    truth = torch.autograd.grad(reference.emsa_upsample(*exact, **geometry), exact, upstream.double())
    eagers = torch.autograd.grad(reference.emsa_upsample(*eager, **geometry), eager, upstream)
    for one, right, other in zip(found, truth, eagers, strict=True):
        assert off(one, right) <= 2 * off(other, right) + 1e-5 * (1 + right.abs().max())
