"""The closed form by which the Focal Transformer's authors count it, and which the paper's Table 1 prints. No torch."""

from __future__ import annotations

from models.config import FocalConfig


def closed_form_macs(config: FocalConfig, size: tuple[int, int]) -> int:
    """MACs of one image of `size` (H, W) as the authors' `flops` methods add them up.

    Rounded to a decimal they are the printed 4.9, 9.4 and 16.4 G of Focal-T, S and B; cut off, Focal-B's 16.37
    would be 16.3.

    Counted, for a stage of N = H·W tokens, C channels, windows of w×w, expand size e, f×f pooled windows:
        embedding   N·C·(patch area)·(channels before it), and N·C for its LayerNorm
        norms       2·N·C a block: one MAC an element
        qkv         3·N·C², and 3·(N/w²)·C² for the pooled tokens, queries that nobody uses included
        pooling     N·C
        products    2·N·C·(w² + (w+2e)² − w² + f²): QKᵀ and PV with every key counted once
        proj, MLP   N·C², 2·(MLP ratio)·N·C²
        last        LayerNorm over a 16th of stage 1's tokens, where stage 4 has a 64th; the classifier

    Left out: neighbours that two of the four shifted maps hold are keys twice, and counted once (4·e·(w−2e), at
    w = 7 and e = 3 12 of the 132); biases, also those of position; the softmax, GELU, the mask, the average pooling,
    and all but one operation an element of the LayerNorms.

    Raises:
        ValueError: a size whose maps do not divide into windows, for which the authors' code gives a fraction.
    """
    window, multiple = config.window, 32 * config.window
    if size[0] % multiple or size[1] % multiple:
        raise ValueError(f"the closed form is for multiples of {multiple}, not {size[0]}x{size[1]}")
    macs = 0
    stages = zip(config.depths, config.expand_sizes, config.focal_windows, strict=True)
    for stage, (depth, expand, focal) in enumerate(stages):
        side, channels = 4 * 2**stage, config.width * 2**stage
        tokens = (size[0] // side) * (size[1] // side)
        pooled = tokens // window**2
        patch = 2 * 2 * (channels // 2) if stage else 4 * 4 * 3
        macs += tokens * channels * (patch + 1)
        norms = 2 * tokens * channels
        qkv = 3 * (tokens + pooled) * channels**2
        pooling = tokens * channels
        keys = (window + 2 * expand) ** 2 + focal**2
        products = 2 * tokens * keys * channels
        proj = tokens * channels**2
        mlp = 2 * config.mlp_ratio * tokens * channels**2
        macs += depth * (norms + qkv + pooling + products + proj + mlp)
    last = channels * (size[0] // 4) * (size[1] // 4) // 16
    return macs + last + channels * 1000
