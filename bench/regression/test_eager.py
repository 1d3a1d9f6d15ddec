"""Our eager ResTv2-T against a plain transcription of the paper's formulas, interleaved in one process."""

from dataclasses import replace

import pytest
import torch

import models
from bench import stats
from bench.harness import timing
from bench.harness.inputs import images
from bench.machine.provenance import host
from bench.machine.state import NoMonitor
from bench.protocols import PROTOCOLS
from bench.regression.transcription import ResTv2Tiny


@pytest.mark.benchmark(group="eager against transcription")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.timeout(600)
def test_eager_against_transcription(benchmark, capsys, batch):
    torch.set_num_threads(host()["available_cores"])
    ours, plain = models.build("restv2_tiny"), ResTv2Tiny().eval()
    plain.load_state_dict(ours.state_dict())
    batch_of_images = images(batch, (224, 224), torch.device("cpu"))
    rules = replace(PROTOCOLS["default"]["cpu"], cap_s=4.0, min_samples=6)  # one process, one long visit

    def compare():
        with torch.inference_mode():
            assert torch.allclose(ours(batch_of_images), plain(batch_of_images), atol=1e-5)
            return timing.interleave(
                lambda: ours(batch_of_images),
                lambda: plain(batch_of_images),
                timing.CpuClock(),
                NoMonitor(),
                rules,
            )

    taken = benchmark.pedantic(compare, rounds=1)
    ratio = stats.ratio(taken.blocks)
    benchmark.extra_info.update(
        ratio=ratio.value, low=ratio.low, high=ratio.high, stopped_by=taken.stopped_by
    )
    with capsys.disabled():
        print(
            f"\nbatch {batch}: ours takes {ratio.value:.3f} times as long ({ratio.low:.3f} to {ratio.high:.3f})"
        )
