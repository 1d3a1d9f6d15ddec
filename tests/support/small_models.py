"""Named models and heads made small: the same code paths, at a small share of the cost.

For tests of what is done with a model. What is said of the models themselves is tested on the models themselves.
"""

from dataclasses import replace
from functools import partial

import pytest

from models import detection, segmentation
from models.config import DETECTOR, SEGMENTER
from models.variants import FOCAL, MODELS, OWN, PVT, RESTV1, RESTV2

# Two blocks in the last stage, so that one of them has another before it in its stage.
DEPTHS = (1, 1, 1, 2)
WIDTH = 16


SMALL = {
    "restv1_lite": replace(RESTV1["restv1_lite"], width=WIDTH, depths=DEPTHS),
    "restv2_lite": replace(RESTV2["restv2_lite"], width=WIDTH, depths=DEPTHS),
    "pvt_tiny": replace(PVT["pvt_tiny"], dims=(16, 32, 80, 128), depths=DEPTHS),
    "focal_tiny": replace(FOCAL["focal_tiny"], width=24, depths=DEPTHS),
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    """A small model of each family of ours under the name of one of its own: ResTv1-Lite, ResTv2-Lite, PVT, Focal."""
    tables: tuple[dict, ...] = (MODELS, OWN, RESTV1, RESTV2, PVT, FOCAL)
    for name, small in SMALL.items():
        for table in tables:
            if name in table:
                patch.setitem(table, name, small)


def narrow_heads(patch: pytest.MonkeyPatch) -> None:
    """Mask R-CNN and UperNet with an eighth of their channels; boxes are as many as ever."""
    detector, segmenter = replace(DETECTOR, pyramid=32, hidden=64), replace(SEGMENTER, width=64, auxiliary=32)
    patch.setattr(detection, "MaskRCNN", partial(detection.MaskRCNN, config=detector))
    patch.setattr(segmentation, "UperNet", partial(segmentation.UperNet, config=segmenter))
