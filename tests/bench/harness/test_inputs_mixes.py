"""A mix of sizes as a case: its text, what is run, counted and timed of it, and what is said of a bad one."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import images, jobs, protocols
from bench.cases import Case, Mix, parse
from bench.errors import UsageError, Wrong
from bench.harness import inputs, macs, timing
from bench.harness.prepare import Spent, prepare
from bench.machine.devices import cpu_device
from bench.studies import STUDIES
from models import attention
from tests.support.sweeps import sweep

CPU = torch.device("cpu")


@pytest.fixture
def annotations(tmp_path):
    """Three images, of which a detector sees two shapes."""

    def write(*of):
        entries = [{"id": i, "width": width, "height": height} for i, (width, height) in enumerate(of)]
        path = tmp_path / "some.json"
        path.write_text(json.dumps({"images": entries}))
        return path

    return write


PARSED = {
    "restv2_tiny@coco": Mix("coco"),
    "restv2_tiny@coco~3:b2": Mix("coco", 3),
    "restv2_tiny@coco500": Mix("coco500"),
    "restv2_tiny[style=win]@data/instances.json~2": Mix("data/instances.json", 2),
    "restv2_tiny@instances.json": Mix("instances.json"),
    "restv2_tiny@./images/": Mix("./images/"),
}


@pytest.mark.parametrize(("text", "mix"), PARSED.items())
def test_a_mix_stands_where_a_size_does_and_prints_back(text, mix):
    case = parse(text)
    assert case.mix == mix
    assert parse(str(case)) == case
    assert f"@{mix.source}~{mix.shapes}" in str(case)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("restv2_tiny@coco~0", "0 shapes in"),
        ("restv2_tiny@coco~1001", "1001 shapes in"),
        ("restv2_tiny@cocoa", "is neither N nor HEIGHTxWIDTH, nor coco, FILE.json or FOLDER/"),
        ("restv2_tiny@coco:train", "a step of training takes images of one size"),
        ("core_tiny@coco", "a part of a model is made for one size, and takes no mix"),
        ("swin_tiny@coco", "this model is built for one size, and takes no mix"),
    ],
)
def test_what_is_no_mix_is_one_line(text, why):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in str(caught.value)


@pytest.mark.parametrize("first", ["0", "5001", "9" * 5000])
def test_of_coco_there_are_so_many_first_images_and_no_more(first):
    with pytest.raises(ValueError, match="of COCO val2017 there are the first 1 to 5000"):
        images.read(f"coco{first}")


def test_the_first_images_are_those_with_the_lowest_ids():
    assert images.read("coco3") == images.read("coco")[:3]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no such file or folder"),
        ("[1, 2]", "not a COCO annotation file: it has no list"),
        ('{"images": [{"id": 7, "width": 0, "height": 5}]}', "image 7 has a width of 0"),
        ('{"images": []}', 'its list "images" is empty'),
    ],
)
def test_a_bad_source_is_one_line_when_it_is_counted_or_run(tmp_path, content, why):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    case = parse(f"restv2_lite@{path}:b1:fp32")
    for use in (macs.count, lambda case: prepare(case, 1, CPU, lambda phase: None, Spent())):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
            use(case)
        assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_images_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        macs.count(parse(f"restv2_lite@{tmp_path}/"))


def test_the_count_is_the_mean_over_all_images_each_by_its_shape(annotations):
    """Twice 640 × 480 and once 480 × 640: two shapes, traced apart and weighted."""
    path = annotations((640, 480), (480, 640), (640, 480))
    by_shape = {
        shape: macs.count(parse(f"restv2_lite@{shape}")).by_operator("paper")
        for shape in ("800x1088", "1088x800")
    }
    mean = macs.count(parse(f"restv2_lite@{path}")).by_operator("paper")
    for operator, found in mean.items():
        expected = (2 * by_shape["800x1088"][operator] + by_shape["1088x800"][operator]) / 3
        assert found == pytest.approx(expected, abs=100)  # rounded once a module
    assert mean.keys() == by_shape["800x1088"].keys()


@sweep
def test_coco_is_counted_as_the_closed_form_has_it():
    """The backbone's matrix products, over the first images, per style; to the MAC."""
    from models.variants import RESTV2
    from tests.support import detector_macs

    weights = images.shapes(images.read("coco8"))
    assert len(weights) > 5
    for style in ("global", "win"):
        traced = macs.count(parse(f"restv2_tiny[style={style}]@coco8")).by_operator("core")["matmul"]
        closed = sum(
            n * detector_macs.backbone(RESTV2["restv2_tiny"], shape, style)["matmul"]
            for shape, n in weights.items()
        )
        assert traced == pytest.approx(closed / weights.total(), rel=1e-9)


def test_every_size_is_run_in_turn_and_an_iteration_is_one_image_of_it(monkeypatch, annotations):
    monkeypatch.setattr(
        inputs.files, "shapes", lambda of: images.Counter({(32, 64): 2, (64, 32): 1, (64, 64): 1})
    )
    case = parse(f"restv2_lite@{annotations((1, 1))}~4:b2:fp32")
    given = inputs.calls(case, 2, CPU)
    assert [tuple(images.shape) for (images,) in given] == [
        *[(2, 3, 32, 64)] * 2,
        (2, 3, 64, 32),
        (2, 3, 64, 64),
    ]
    assert given[0][0] is given[1][0]
    it = prepare(case, 1, CPU, lambda phase: None, Spent())
    assert it.per_call == 4
    seen: list[torch.Tensor] = []
    taken = timing.sample(
        lambda: seen.append(torch.as_tensor(it.run())),
        timing.CpuClock(),
        _Cool(),
        protocols.PROTOCOLS["quick"]["cpu"],
        per_call=it.per_call,
    )
    assert taken.iterations_per_sample == 4
    assert all(out.shape == (2, 1000) for out in seen)


class _Cool:
    def read(self):
        from bench.machine.state import Reading

        return Reading()


def test_a_row_is_used_again_only_for_the_same_sizes(annotations):
    device, rules = cpu_device(), protocols.PROTOCOLS["quick"]["cpu"]

    def stamp(text):
        return jobs.stamps(jobs.job_of("throughput", device, rules, parse(text)))

    path = annotations((640, 480))
    before = stamp(f"restv2_lite@{path}")
    assert before == stamp(f"restv2_lite@{path}") != {}
    annotations((480, 640))
    assert stamp(f"restv2_lite@{path}") != before
    assert stamp("restv2_lite@224") == {}


def test_a_case_of_one_size_is_as_before():
    case = parse("restv2_lite@64x96:b1:fp32")
    assert case == replace(case, mix=None) == Case("restv2_lite", size=(64, 96), batch=1, dtype="fp32")
    assert inputs.sizes_of(case) == [(64, 96)]


# ---- the study of windows


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_study_switches_off_padding_and_then_copies(kind, quick):
    from models.cost import stage_work
    from models.variants import RESTV2

    study = STUDIES["windows"]
    listed = study.parsed(kind, quick)
    pairs = study.compared(kind, quick)
    assert {case for pair in pairs for case in pair} <= {*listed}
    of_mix = {dict(case.options)["style"] for case in listed if case.mix}
    assert of_mix == {"global", "win", "cwin", "hwin"}
    assert listed == study.parsed(kind, False)  # which is what the report looks for
    apart = {}
    for first, second in (pair for pair in pairs if not pair[0].attention):
        assert (dict(first.options)["style"], dict(second.options)["style"]) in (
            ("win", "global"),
            ("cwin", "global"),
            ("hwin", "global"),
        )
        if not first.mix:
            work = stage_work(RESTV2["restv2_tiny"], first.size, "win")
            padded = any(block.padded_share > 0 for block in work)
            apart[padded, any(block.launches for block in work)] = first.size
    assert apart.keys() == {(True, True), (False, True), (False, False)}


def test_how_long_a_run_will_take_follows_the_pixels():
    """Without a time cap, which is the least that a case may take, exactly so: 3 s, and the iterations' pixels."""
    device = cpu_device()
    rules = replace(protocols.PROTOCOLS["default"]["cpu"], cap_s=0.0)

    def expected(text, harness="throughput"):
        asked = [parse(text)] * (2 if harness == "compare" else 1)
        return jobs.Expectations([], device).seconds(jobs.job_of(harness, device, rules, *asked)) - 3.0

    one = expected("restv2_tiny@224")
    assert one == pytest.approx((rules.warmup_iterations + rules.min_samples) * 0.1)
    assert expected("restv2_tiny@800x1344") == pytest.approx(one * 800 * 1344 / 224**2)
    area = sum(height * width for height, width in inputs.sizes_of(parse("restv2_tiny@coco~4")))
    assert expected("restv2_tiny@coco~4") == pytest.approx(one * area / 224**2)
    assert expected("restv2_tiny@224", "compare") == pytest.approx(4 * one)
    assert expected("attention_tiny@224") == pytest.approx(one / 10)
    assert expected("restv2_tiny@nowhere.json") == 0


def test_every_size_is_checked_before_any_is_timed(monkeypatch, annotations):
    """A model that is wrong on the largest size alone is not timed."""
    monkeypatch.setattr(
        inputs.files, "shapes", lambda of: images.Counter({(32, 64): 1, (64, 32): 1, (64, 64): 1})
    )
    case = parse(f"restv2_lite@{annotations((1, 1))}~3:b1:fp32:sdpa")
    take = partial(prepare, case, 1, CPU, lambda phase: None, Spent())
    checked = take().check
    assert checked["error"] <= checked["bound"]
    rightly = attention.ATTEND["sdpa"]

    def wrongly(q, k, v, heads):
        return rightly(q, k, v, heads) + (1.0 if q.shape[1] == 16 * 16 else 0.0)

    monkeypatch.setitem(attention.ATTEND, "sdpa", wrongly)
    with pytest.raises(Wrong, match="differs from eager in fp64"):
        take()


def test_a_row_says_how_well_its_shapes_stand_for_all(annotations):
    path = annotations((640, 480), (480, 640), (640, 480))
    said = inputs.about_mix(parse(f"restv2_lite@{path}~1"))
    assert said == {"shapes": [(800, 1088)], "images": 3, "area_ratio": 1.0, "share": pytest.approx(2 / 3)}
    assert inputs.about_mix(parse("restv2_lite@224")) is None
