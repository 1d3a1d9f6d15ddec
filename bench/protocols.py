"""How long to measure, as data: the rules of each protocol on a GPU and on a CPU. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Rules:
    """How long to measure. Every row carries the rules that it was measured by."""

    name: str
    warmup_iterations: int
    warmup_s: float
    sample_s: float  # a sample is as many iterations as fill this; 0 is one iteration
    min_samples: int  # 6 is the fewest that give a 95 % interval
    max_samples: int | None
    half_width: float | None  # stop once the interval's half-width is within this share of the median
    cap_s: float  # stop sampling then at the latest, once there are min_samples
    limit_s: float  # a case that takes longer, all in all, is taken for hung
    statistic: str = "median"
    batch: int | None = None  # where the case does not say
    dtype: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The rules as a row and the worker's pipe have them."""
        return asdict(self)


# The interval is looked at after each sample, so it is not quite what it says: in simulations with 0.5 to 2 % of
# noise and the GPU's rules, 97 to 90 % of the intervals held the true median.
_GPU = Rules("default", 10, 0.5, 0.05, 10, None, 0.005, 10.0, limit_s=600)
_CPU = Rules("default", 1, 0.2, 0.1, 6, None, 0.02, 4.0, limit_s=600)  # compiling takes minutes on two cores

# Section 4's "Inference throughput is measured on a V100 GPU, following [47]": batch 64, 50 warm-ups, mean of 30
# iterations. Each is waited for here, which costs microseconds beside the 50 ms and more that they take.
_PAPER = Rules("paper", 50, 0, 0, 30, 30, None, 0, limit_s=7200, statistic="mean", batch=64, dtype="fp32")
PROTOCOLS: dict[str, dict[str, Rules]] = {
    "default": {"cuda": _GPU, "cpu": _CPU},
    "quick": {
        "cuda": replace(_GPU, name="quick", min_samples=6, half_width=0.02, cap_s=1.5),
        "cpu": replace(_CPU, name="quick", warmup_s=0, sample_s=0, half_width=0.05, cap_s=1.0),
    },
    "paper": {"cuda": _PAPER, "cpu": _PAPER},
}
