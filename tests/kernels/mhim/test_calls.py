"""What is compiled ahead of time of MHIM: launches whose programs and rounds can be counted; and its cost."""

from kernels.emsa_upsample.calls import BATCH, Problem
from kernels.emsa_upsample.tuning import Config
from kernels.gpus import STACKS
from kernels.mhim import calls, cost

T2 = Problem(96, 4, 2, (28, 28))  # stage 2 of ResTv2-T at 224: 784 queries, 49 keys, two heads


def test_the_cost_of_a_worked_example():
    macs = cost.macs(1, (28, 28), 192, 2, 4, has_branch=True)
    assert macs == {"attend": 2 * 784 * 49 * 192, "mix": 784 * 49 * 4, "up": 9 * 49 * 16 * 192}
    assert cost.macs(1, (28, 28), 192, 2, 4, has_branch=False)["up"] == 0
    # QKᵀ of both heads for each of both, twice, and PV
    assert cost.executed_products(1, (28, 28), 192, 2, 4) == 5 * 784 * 49 * 192
    assert cost.least_traffic((28, 28), 192, 2, 4, has_branch=False) == (192 * (2 * 784 + 2 * 49), 4)


def test_a_phase_of_49_cells_fills_a_tile_and_the_statistics_have_784_queries_in_13():
    call = calls.call(90, "fp16", "HGMMA", T2, Config(64, 64, 4))
    launched = {each.kernel.name: (each.programs, dict(each.trips)) for each in call.launches}
    assert launched["mhim_statistics"][0] == BATCH * 2 * 13
    assert launched["mhim"][0] == BATCH * 2 * 16
    assert launched["_emsa_statistics"][0] == BATCH * 16
    assert launched["mhim"][1]["_mixed.other"] == 2
    alone = calls.call(90, "fp16", "HGMMA", T2, Config(64, 64, 4), has_branch=False)
    assert [each.kernel.name for each in alone.launches] == ["mhim_statistics", "mhim"]
    assert alone.launches[1].programs == BATCH * 2 * 13


def test_every_stage_with_several_heads_is_compiled_with_and_without_the_branch():
    todo = [call for call in calls.calls("cuda13", True) if call.capability == 90]
    assert len(todo) == 2 * (3 + 4)  # stages 2 to 4 of T, 1 to 4 of L
    assert {call.capability for call in calls.calls("cuda13", False)} == {*STACKS["cuda13"]}
