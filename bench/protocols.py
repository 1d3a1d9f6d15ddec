"""The rules of how long to measure, as data: those of each protocol on a GPU and on a CPU. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Rules:
    """The rules of how long to measure. Every row carries its protocol's, and in `turn` what its round made of them."""

    name: str
    warmup_iterations: int
    warmup_s: float
    sample_s: float  # a sample is as many iterations as fill this; 0 is one iteration
    min_samples: int
    max_samples: int | None
    cap_s: float  # sample for so long, of one visit, and until there are min_samples
    limit_s: float  # a visit that takes longer, all in all, is taken for hung
    statistic: str = "median"
    batch: int | None = None  # where the case does not say
    dtype: str | None = None
    visits: int = 1  # to each case, each in a process of its own; one gives no interval to conclude from
    settle_s: float = 0.0  # warm up for so long at most while times or the clock still move
    # A process warms its board for longer, with its first case: so long at least, and at most while it still moves.
    board_least_s: float = 0.0
    board_most_s: float = 0.0
    # The same in the first round of a run so long that it warms the board itself, and in later ones; None: as above.
    board_long_s: tuple[float, float] | None = None

    def in_round(self, number: int, *, short: bool, took_s: float = 0.0) -> Rules:
        """The rules with the bounds of the board's warm-up in this round.

        Args:
            short: the round ends before the board is warm by itself.
            took_s: that it took in the first round; it is known to move, then, and gets half of it at the least.
        """
        most_s = self.board_long_s[min(number, 1)] if self.board_long_s and not short else self.board_most_s
        return replace(self, board_most_s=most_s, board_least_s=max(self.board_least_s, took_s / 2))

    def as_dict(self) -> dict[str, Any]:
        """The rules as a row and the worker's pipe have them."""
        return asdict(self)


# The number of samples never depends on how alike they are: a rule that stops at a narrow interval picks the moments
# in which noise happens to be small. Five visits on a GPU: the t interval over them is 1.15 times as wide as that over
# as many independent samples, over four 1.3 times, over three 1.5 times. `make trials` holds what is promised.
# A board of a GPU that stands still is warm after ten seconds; one that follows its load with a time constant of 30 s
# needs three minutes.
_GPU = replace(
    Rules("default", 10, 0.3, 0.05, 8, None, 0.8, limit_s=900, visits=5, settle_s=2.0),
    board_least_s=10.0,
    board_most_s=180.0,
)
# Four on a CPU, where Table 1 is to end within five minutes on two cores. Compiling takes minutes there.
_CPU = replace(
    Rules("default", 1, 0.1, 0.1, 1, None, 0.5, limit_s=600, visits=4, settle_s=0.2),
    board_least_s=20.0,
    board_most_s=20.0,
    board_long_s=(12.0, 4.0),
)

# Section 4's "Inference throughput is measured on a V100 GPU, following [47]": batch 64, 50 warm-ups, mean of 30
# iterations. Each is waited for here, which costs microseconds beside the 50 ms and more that they take.
_PAPER = Rules("paper", 50, 0, 0, 30, 30, 0, limit_s=7200, statistic="mean", batch=64, dtype="fp32")
PROTOCOLS: dict[str, dict[str, Rules]] = {
    "default": {"cuda": _GPU, "cpu": _CPU},
    "quick": {
        "cuda": replace(
            replace(_GPU, name="quick", min_samples=6, cap_s=0.5, visits=1, settle_s=1.0),
            board_least_s=1.7,
            board_most_s=5.0,
        ),
        "cpu": Rules("quick", 1, 0, 0, 6, None, 0.3, limit_s=_CPU.limit_s),
    },
    "paper": {"cuda": _PAPER, "cpu": _PAPER},
}
