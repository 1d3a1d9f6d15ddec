"""The tiles as data: what is offered, what is refused, and that both agree with what is compiled."""

from itertools import product

import pytest

from kernels.emsa_upsample import launch, op, tuning
from tests.support import measured


@pytest.mark.parametrize(
    ("head_dim", "parts"),
    [
        (16, (16, 0)),
        (48, (32, 16)),
        (64, (64, 0)),
        (80, (64, 16)),
        (96, (64, 32)),
        (112, (64, 64)),
        (128, (128, 0)),
    ],
)
def test_a_head_is_taken_in_powers_of_two(head_dim, parts):
    assert tuning.powers_of_two(head_dim) == parts


@pytest.mark.parametrize(
    ("triton", "capability", "dtype", "why"),
    [
        ((3, 1), 70, "fp16", None),
        ((3, 1), 75, "fp32", None),
        ((3, 6), 75, "fp32", None),
        ((3, 6), 90, "bf16", None),
        ((3, 1), 61, "fp32", "compute capability 7.0, and this GPU has 6.1"),
        ((3, 1), 75, "bf16", "bf16 needs compute capability 8.0, and this GPU has 7.5"),
        ((3, 6), 75, "fp16", "use the cuda12 stack"),
        ((3, 1), 100, "fp16", "use the cuda13 stack"),
        ((3, 6), 86, "fp16", None),
        ((3, 6), 121, "bf16", None),
        ((3, 6), 103, "fp16", "compiled for no GPU of compute capability 10.3"),
        ((3, 6), 110, "fp32", "compiled for no GPU of compute capability 11.0"),
    ],
)
def test_what_is_refused_before_it_is_compiled(triton, capability, dtype, why):
    found = tuning.refusal(triton, capability, dtype)
    assert found is None if why is None else found and why in found


def test_refused_and_expected_agree():
    """`make kernels` compiles what runs, and nothing that is refused."""
    triton = {"cuda12": (3, 1), "cuda13": (3, 6)}
    for (stack, capability, precision), want in tuning.EXPECTED.items():
        dtype = "fp32" if precision == "tf32" else precision
        refused = tuning.refusal(triton[stack], capability, dtype)
        if precision != "tf32":
            assert (refused is not None) == isinstance(want, tuning.Refused), (stack, capability, precision)


def offered():
    """Every call that a model may make on a GPU, with the configurations that it is offered."""
    for dtype, capability, head_dim, reduction, heads, keys in product(
        op.DTYPES.values(),
        (70, 75, 80, 90, 100, 120),
        tuning.HEAD_DIMS,
        tuning.REDUCTIONS,
        (1, 2, 4, 8),
        (49, 1050),
    ):
        shape = (head_dim, reduction, heads, keys)
        yield shape, tuning.candidates(dtype, capability, *shape)


def test_what_is_offered_fits_the_call():
    """A cell's tile is never larger than the cell; a design that takes all keys at once has room for them."""
    designs = set()
    for (_, reduction, heads, keys), configs in offered():
        assert len(configs) == len({*configs}) > 0
        for config in configs:
            designs.add(config.design)
            assert config.design != "cell" or config.block_q <= reduction**2
            assert config.design not in ("resident", "heads", "loop") or keys <= config.block_k
            assert config.design != "resident" or heads == 1
            assert config.design != "long" or keys > config.block_k
    assert designs == {*launch.DESIGNS}


def test_an_older_triton_gets_what_it_can_compile():
    for (head_dim, reduction, heads, keys), _ in offered():
        found = tuning.candidates("fp16", 80, head_dim, reduction, heads, keys, (3, 1))
        assert {config.design for config in found} <= {"phase", "cell"}


@pytest.mark.parametrize(
    ("images", "tiles", "walkers", "parts"),
    [
        (64, 7, 33, (1, 7)),  # the busiest has two images, 15; or 14 parts of one tile, 21
        (1, 7, 33, (7, 1)),  # a walker a tile
        (33, 7, 33, (1, 7)),
        (34, 7, 33, (7, 1)),  # 8 parts of one tile, 12; or two images, 15
    ],
)
def test_images_are_cut_for_the_busiest_walker(images, tiles, walkers, parts):
    assert tuning.walk(images, tiles, walkers) == parts


HEADS = {"ResTv2-T": (96, 1), "ResTv2-L": (64, 2)}  # width, and how many in stage 1
KEYS = {"224": 49, "384": 144, "800x1344": 1050}


def problems(wanted, *of, **only):
    """Calls, as many as wanted, each with the times of its configurations."""
    found = list(measured.times(*of, **only))
    assert len(found) == wanted
    return [pytest.param(*each, id=str(each[0])) for each in found]


@pytest.mark.parametrize(
    ("problem", "times"), problems(9, "emsa_upsample", "h200", "layouts.csv", tree="after", call="2")
)
def test_what_runs_on_hopper_was_the_fastest_on_an_h200(problem, times):
    """Tiles that were timed together are compared; what holds fewer registers was timed in a call of its own."""
    model, stage, image = problem
    head_dim, heads = HEADS[model]
    shape = (head_dim, 8 >> (stage - 1), heads << (stage - 1), KEYS[image])
    chosen = tuning.choose("fp16", 90, *shape)
    if chosen.registers:
        times = dict(measured.times("emsa_upsample", "h200", "layouts.csv", tree="after", call="3"))[problem]
    assert times[measured.named(chosen)] <= measured.AGAIN * min(times.values())


@pytest.mark.parametrize(("problem", "times"), problems(4, "emsa_upsample in windows", "h200"))
def test_what_runs_on_hopper_in_windows_was_the_fastest_on_an_h200(problem, times):
    model, stage, _ = problem
    head_dim, heads = HEADS[model]
    shape = (head_dim, 8 >> (stage - 1), heads << (stage - 1), tuning.MOST_KEYS_OF_A_WINDOW)
    chosen = measured.named(tuning.choose("fp16", 90, *shape, windowed=True))
    assert times[chosen] <= measured.AGAIN * min(times.values())
