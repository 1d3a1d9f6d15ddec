"""Geometry of the stages, and configurations that no model is written for."""

from dataclasses import replace

import pytest
import torch

from models.config import StageConfig, doubled, map_sizes, stage_shapes
from models.variants import ATTENTIONS, CORES, FOCAL, MLPS, MODELS, RESTV2, TABLE3, config_of, input_shapes


def test_maps_are_what_strided_convolutions_leave():
    """Padded convolutions of stride 2: two in the stem, then one a stage."""
    halve = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, device="meta")
    for size in [(224, 224), (32, 33), (797, 1333), (255, 34), (800, 1344)]:
        x = halve(torch.empty(1, 1, *size, device="meta"))
        for map_size in map_sizes(size):
            x = halve(x)
            assert tuple(x.shape[2:]) == map_size


def test_a_stage_has_twice_the_channels_of_the_one_before():
    for config in RESTV2.values():
        shapes = stage_shapes(config, (64, 96))
        assert [shape.dim for shape in shapes] == doubled(config.width)
        assert [shape.dim for shape in shapes[1:]] == [2 * shape.dim for shape in shapes[:-1]]
        assert [(shape.heads, shape.reduction) for shape in shapes] == list(
            zip(config.heads, config.reductions, strict=True)
        )


@pytest.mark.parametrize("name", [*CORES, *MLPS, *ATTENTIONS])
@pytest.mark.parametrize("stage", ["1", "2", "3", "4"])
def test_a_stage_alone_has_the_shape_of_its_model(name, stage):
    config = MODELS[name]
    assert isinstance(config, StageConfig)
    assert config.shape((100, 300), stage) == stage_shapes(config.of, (100, 300))[int(stage) - 1]
    shapes = input_shapes(name, (100, 300), stage=stage)
    height, width = config.shape((100, 300), stage).map_size
    assert shapes[0] == (height * width, config.shape((100, 300), stage).dim)


def test_the_feed_forward_alone_has_as_many_hidden_channels_as_in_its_model():
    for config in MLPS.values():
        assert [config.hidden(stage) for stage in "1234"] == [4 * dim for dim in doubled(config.of.width)]


def test_images_go_into_everything_else():
    for name in {*MODELS} - {*CORES, *MLPS, *ATTENTIONS} | {"timm:resnet18"}:
        assert input_shapes(name, (64, 96)) == ((3, 64, 96),)


def test_a_foreign_model_is_known_by_its_name_alone():
    config = config_of("torch.nn:Identity")
    assert (config.title, config.family, [*config.options]) == (
        *("torch.nn:Identity", "other"),
        ["inputs", "weights"],
    )
    assert [*config_of("timm:resnet18").options] == ["dynamic_img_size", "weights"]
    assert config_of("restv2_tiny") is TABLE3
    with pytest.raises(
        ValueError, match=r"no model 'restv3'; there are restv2_tiny, .*, timm:NAME and module:Class"
    ):
        config_of("restv3")


@pytest.mark.parametrize("change", [{"focal_levels": 3}, {"focal_windows": (7, 5, 3, 2)}])
def test_a_configuration_that_is_not_written_is_refused(change):
    with pytest.raises(ValueError, match="two focal levels, and odd focal windows"):
        replace(FOCAL["focal_tiny"], **change)
