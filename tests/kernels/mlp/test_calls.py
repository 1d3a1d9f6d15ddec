"""What is compiled ahead of time of the feed-forward: its launch, counted by hand."""

import pytest

from kernels.emsa_upsample.calls import BATCH
from kernels.gpus import STACKS
from kernels.mlp import calls, tuning
from kernels.mlp.tuning import Config


def test_a_call_moves_its_tokens_and_multiplies_them_by_both_weights():
    """64 images of 56×56 tokens and 96 channels: 384 hidden channels in six blocks."""
    call = calls.call(90, "fp16", "HGMMA", 96, 56 * 56, Config(128, 64, 8))
    tokens = BATCH * 56 * 56
    assert (call.results, call.macs) == (tokens, 2 * tokens * 96 * 384)
    assert call.least_bytes == 2 * (2 * tokens * 96 + 2 * 96 * 384 + 384 + 96)
    (launch,) = call.launches
    assert launch.programs == tokens // 128
    assert dict(launch.trips) == {"_mlp.block": 6}


@pytest.mark.parametrize("quick", [True, False])
def test_nothing_refused_is_compiled(quick):
    assert not list(calls.calls("cuda12", quick))
    todo = list(calls.calls("cuda13", quick))
    assert {call.capability for call in todo} == {*STACKS["cuda13"]}
    for call in todo:
        constants = dict(call.launches[0].kernel.constants)
        where = (int(constants["C"]), int(constants["H"]))
        assert tuning.refusal((3, 6), call.capability, call.precision, *where) is None
    defaults = [(call.capability, call.precision, call.of) for call in todo if call.is_default]
    assert len(defaults) == len({*defaults})
    # stages 1 and 2 of ResTv2-T and -L have 96 to 256 channels
    assert len({call.of for call in todo}) == 4
