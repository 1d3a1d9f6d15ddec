"""The forward in windows in Triton's interpreter, shared out as the forward is; what it counts, and what it refuses."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.emsa_upsample import cost, op, reference, tuning
from tests.support.sweeps import shared_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", shared_out(25))
def test_in_tritons_interpreter(share, interpreted):
    interpreted("tests/kernels/emsa_upsample/interpreted_windows.py", share)


def problem(size=(5, 7), window=4, device="cpu"):
    windows = cost.windows_of(size, window)
    keys = torch.zeros(2 * windows, (window // 2) ** 2, 32, device=device)
    shapes = [(128, 1, 3, 3), (128,), (32,), (32,)]
    parameters = [torch.zeros(shape, device=device) for shape in shapes]
    q = torch.zeros(2, size[0] * size[1], 32, device=device)
    return [q, keys, keys, *parameters], {"heads": 2, "size": size, "reduction": 2, "window": window}


def test_its_flops_are_those_of_who_pads():
    """The reference's, which pads queries, and those of the two projections that only who pads makes of them."""
    tensors, geometry = problem(device="meta")
    counted = []
    for run in (op.emsa_upsample, reference.emsa_upsample):
        with FlopCounterMode(display=False) as counter:
            assert run(*tensors, **geometry).shape == tensors[0].shape
        counted.append(counter.get_total_flops())
    padding = 8 * 8 - 35  # four windows of 4×4
    assert counted[0] == counted[1] + 2 * (2 * 2 * padding * 32 * 32)


def test_what_is_not_padding():
    """8 × 8 keys for each of 200×336 queries; by hand."""
    macs = cost.macs_without_padding(1, (200, 336), 96, 8, 64)
    assert macs == {"attend": 2 * 67_200 * 64 * 96, "up": 9 * 67_200 * 96}
    assert cost.windows_of((200, 336), 64) == 4 * 6
    assert cost.macs(24, (64, 64), 96, 8)["attend"] == 2 * 98_304 * 64 * 96


def test_a_window_with_too_many_keys_is_a_line():
    tensors, geometry = problem(size=(40, 40), window=18)
    with pytest.raises(ValueError, match="a window of 18x18 has 81 keys, and the kernel takes 64 at most"):
        op.emsa_upsample(*tensors, **geometry)


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_a_side_is_a_line_where_all_else_is_that_of_the_whole_map(window):
    tensors, geometry = problem(size=(4, 4), window=4)
    with pytest.raises(ValueError, match=f"a window has a side of 1 at least, not {window}"):
        op.emsa_upsample(*tensors, **(geometry | {"window": window}))


def test_keys_are_those_of_all_windows():
    tensors, geometry = problem()
    with pytest.raises(ValueError, match=r"k is \(8, 4, 32\), not \(2, 4, 32\) .* in windows of 8x8"):
        op.emsa_upsample(*tensors, **(geometry | {"window": 8, "reduction": 4}))


def test_no_tile_of_a_window_is_of_a_design_that_knows_none():
    for reduction, heads in ((8, 1), (4, 2), (2, 4), (1, 8)):
        for capability in (80, 90, 100, 120):
            found = tuning.candidates("fp16", capability, 96, reduction, heads, 64, windowed=True)
            assert {config.design for config in found} <= {*tuning.DESIGNS_IN_WINDOWS}
            # a tile of "phase" is never padding alone; on Hopper it was the fastest all the same where cells are small
            assert found[0].design != "phase" or reduction == 1 or (capability, reduction) == (90, 2)
