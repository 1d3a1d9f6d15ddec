"""The place of a window in its map, for the kernels. Without windows, a map is the one region of its image."""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl


@triton.jit
def region(unit, H, W, side, WINDOWED: tl.constexpr):
    """Image, first row and column, and where rows and columns end, of a region, or of each of several.

    unit: number of the image; of the window, where the map is in windows of side × side, an image's row by row.
    """
    if WINDOWED:
        across = (W + side - 1) // side
        windows = (H + side - 1) // side * across
        top = unit % windows // across * side
        left = unit % across * side  # windows are a multiple of those across
        return unit // windows, top, left, tl.minimum(top + side, H), tl.minimum(left + side, W)
    else:
        return unit, 0, 0, H, W
