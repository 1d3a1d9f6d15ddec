"""The cases of the regression gate, by kind of device, and the rules by which two revisions take turns. No torch."""

from __future__ import annotations

from dataclasses import replace

from bench.protocols import Rules

# Kernel per stage, window styles, models end to end, a step of training. On a CPU of about 10 ms each; on a GPU with
# the batch and the dtype of its profile.
SUITE: dict[str, tuple[str, ...]] = {
    "cpu": (
        *("core_tiny[stage=1]@224", "core_tiny[stage=2]@224:b2"),
        *("core_tiny[stage=3]@224:b4", "core_tiny[stage=4]@224:b8"),
        "attention_tiny[stage=1,style=global]@112",
        "attention_tiny[stage=1,style=win]@112",
        "restv2_lite@32",
        "restv2_lite@32:sdpa",
        "restv2_lite@32:train",
    ),
    "cuda": (
        *(f"core_tiny[stage={stage},graph]@224:fused" for stage in (1, 2, 3, 4)),
        *(f"attention_tiny[stage=1,style={style}]@800x1344:b1" for style in ("global", "win")),
        *(f"restv2_tiny@224:{impl}" for impl in ("eager", "sdpa", "fused")),
        "restv2_tiny[style=win]@224",
        "restv2_tiny@224:train",
    ),
}

# `min_samples` are blocks of four turns. On a CPU a turn is one call of 10 ms, after one that is not timed: somebody
# else's work comes and goes, and the shorter a block, the fewer it spoils. Without that call, a turn that follows one
# of the same side would find its own data in the caches.
RULES: dict[str, Rules] = {
    "cuda": Rules(
        "turns", 10, 0.3, 0.05, 10, 10, 0.0, limit_s=900, settle_s=1.0, board_least_s=10.0, board_most_s=60.0
    ),
    "cpu": Rules("turns", 2, 0.05, 0.01, 16, 16, 0.0, limit_s=600),
}
# Of one revision alone, `min_samples` are rounds of three turns, and its process imports torch: longer restarts.
ALONE = {**RULES, "cpu": replace(RULES["cpu"], sample_s=0.02, min_samples=24, max_samples=24)}
