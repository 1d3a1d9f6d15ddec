"""Named models and heads made small: the same code paths, at a small share of the cost.

For tests of what is done with a model. What is said of the models themselves is tested on the models themselves.
"""

from dataclasses import replace
from functools import partial

import pytest

from models import detection
from models.config import DETECTOR
from models.variants import MODELS, OWN, RESTV1, RESTV2

# Two blocks in the last stage, so that one of them has another before it in its stage.
DEPTHS = (1, 1, 1, 2)
WIDTH = 16

# The boxes are as many as ever.
NARROW = replace(DETECTOR, pyramid=32, hidden=64)


def shrink_lite(patch: pytest.MonkeyPatch) -> None:
    """ResTv1-Lite and ResTv2-Lite with a quarter of their channels and fewer blocks, under the same names."""
    for name, family in (("restv1_lite", RESTV1), ("restv2_lite", RESTV2)):
        small = replace(family[name], width=WIDTH, depths=DEPTHS)
        for table in (MODELS, OWN, family):
            patch.setitem(table, name, small)  # type: ignore[arg-type]


def narrow_detector(patch: pytest.MonkeyPatch) -> None:
    """Mask R-CNN with an eighth of the channels in its pyramid and heads, and as many boxes."""
    patch.setattr(detection, "MaskRCNN", partial(detection.MaskRCNN, config=NARROW))
