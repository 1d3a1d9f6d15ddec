"""What is compiled ahead of time: the models' problems, and launches whose programs and rounds can be counted."""

import pytest

from kernels.emsa_upsample import calls, tuning
from kernels.emsa_upsample.calls import BATCH, Problem
from kernels.emsa_upsample.tuning import Config
from kernels.gpus import STACKS
from models.config import stage_shapes
from models.variants import RESTV2


def launches(problem, config, capability=90, precision="fp16"):
    call = calls.call(capability, precision, "HGMMA", problem, config)
    return call, {launch.kernel.name: (launch.programs, dict(launch.trips)) for launch in call.launches}


T1, T3 = Problem(96, 8, 1, (56, 56)), Problem(96, 2, 4, (14, 14))


@pytest.mark.parametrize(("model", "name"), [("ResTv2-T", "restv2_tiny"), ("ResTv2-L", "restv2_large")])
def test_the_problems_are_those_of_the_models(model, name):
    of_models = {problem.of: problem for problem in calls.of_models() if problem.of.startswith(model)}
    assert len(of_models) == 6
    for size, images in (((224, 224), "224"), ((384, 384), "384"), ((800, 1344), "800x1344")):
        shapes = stage_shapes(RESTV2[name], size)
        for stage, shape in enumerate(shapes[: 4 if images == "224" else 1]):
            problem = of_models[f"{model}, stage {stage + 1} at {images}"]
            assert (problem.size, problem.reduction) == (shape.map_size, shape.reduction)
            assert (problem.heads, problem.channels) == (shape.heads, shape.dim)
            assert problem.blocks == RESTV2[name].depths[stage]


def test_a_phase_of_many_cells_fills_a_tile_for_49_keys_with_49():
    """64 queries of one phase: 49 cells in one tile, so four tiles for R = 2, for each head and image."""
    call, launched = launches(T3, Config(64, 64, 4))
    assert launched["_emsa_upsample"][0] == BATCH * 4 * 4
    assert launched["_emsa_statistics"][0] == BATCH * 4
    assert launched["_emsa_upsample"][1]["_emsa_upsample.block"] == 1
    assert call.results == BATCH * 14 * 14 * 4
    # two fp32 for each query, written and read
    assert call.moved_bytes - call.least_bytes == BATCH * 14 * 14 * 2 * 2 * 4


def test_a_call_moves_its_tensors_and_multiplies_queries_by_keys():
    call, _ = launches(T1, Config(64, 64, 4, design="cell"))
    elements = BATCH * 96 * (2 * 56 * 56 + 2 * 49) + 96 * (10 * 64 + 2)
    assert call.moved_bytes == call.least_bytes == 2 * elements
    assert call.macs == 2 * BATCH * 56 * 56 * 49 * 96


def test_walkers_go_through_every_tile_once():
    """Whatever they are: 49 cells in tiles of 8, four pieces of 16 phases, every image."""
    config = Config(128, 64, 8, design="resident")
    _, launched = launches(T1, config)
    programs, trips = launched["emsa_resident"]
    walked = programs * trips["emsa_resident.unit"] * trips["emsa_resident.tile"]
    assert BATCH * 4 * 7 <= walked <= 1.2 * BATCH * 4 * 7  # the last part of an image may be short


def test_many_keys_are_taken_in_blocks_but_for_the_last():
    config = Config(128, 128, 8, design="long", phases=8)
    _, launched = launches(Problem(96, 8, 1, (200, 336)), config)
    assert launched["emsa_long"][1]["emsa_long._"] == 8  # 1050 = 8 · 128 + 26
    assert launched["emsa_long"][0] == BATCH * 8 * -(-25 * 42 // 16)


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_refused_is_compiled_and_every_gpu_has_something(stack):
    triton = {"cuda12": (3, 1), "cuda13": (3, 6)}[stack]
    for quick in (True, False):
        todo = list(calls.calls(stack, quick))
        for call in todo:
            assert tuning.refusal(triton, call.capability, calls.dtype_of(call.precision)) is None
        assert {call.capability for call in todo} == {*STACKS[stack]}
        defaults = [
            (call.capability, call.precision, call.of) for call in todo if call.is_default and call.of
        ]
        assert len(defaults) == len({*defaults})
        assert all(call.results and call.launches for call in todo)
