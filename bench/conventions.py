"""The conventions of counting MACs: what each counts, and which published numbers it gives. No torch.

1 MAC = 2 FLOPs; the paper prints MACs and calls them FLOPs. `bench/harness/macs.py` counts by this table, and the
command line, the page and the README show it.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Convention:
    """One way of counting, in words for a reader of the numbers."""

    counts: str
    reproduces: str
    by_call: bool = True  # summed over a model's calls; else a formula for the whole model


CONVENTIONS: dict[str, Convention] = {
    "core": Convention(
        "convolutions, linear layers and matrix products, attention's too",
        "RegNetY, ConvNeXt and Swin as the paper prints them; every rate in the report",
    ),
    "core+norm": Convention(
        "what `core` counts, and norms as fvcore counts them",
        "the paper's Table 5",
    ),
    "core+norm-no-attention": Convention(
        "what `core+norm` counts without attention's products",
        "the paper's Table 4",
    ),
    "fvcore": Convention(
        "what fvcore counts, and the attention products that it silently skips",
        "fvcore itself; the paper's Table 3 by operator",
    ),
    "paper": Convention(
        "what `core` counts, and biases, norms, ReLU, pooling and upsampling",
        "ResTv2 in the paper's Tables 1, 2, 6 and 7",
    ),
    "paper-no-attention": Convention(
        "what `paper` counts without attention's products",
        "the paper's Table 9, and ResTv1 in Table 1",
    ),
    "closed-form": Convention(
        "what Focal's authors add up, which is less than what is run",
        "Focal in the paper's Table 1",
        by_call=False,
    ),
}
NO_FORMULA = "`{convention}` has no formula for this model and size: Focal's authors give one"
BY_CALL = tuple(name for name, convention in CONVENTIONS.items() if convention.by_call)
