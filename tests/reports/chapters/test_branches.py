"""Figures 3 and 4: what they say is worked out by hand from invented rows."""

from reports.chapter import Told
from reports.chapters import branches
from reports.chapters.branches import figure3, figure4
from tests.support import synthetic_rows as synthetic
from tests.support.analyses import CKA, FREQUENCIES, PHOTOGRAPHS, SYNTHETIC, TRAINED, cka, fourier
from tests.support.reporting import results_of, words_in

MANY = {**SYNTHETIC, "used": 64, "found": 64}


def plot_of(results, draw):
    """The figure that a function draws of the rows."""
    return draw(Told(branches.CHAPTERS[0], results))


def test_figure_3_counts_the_blocks_in_which_upsampling_carries_more_of_the_high_frequencies(tmp_path):
    plot = plot_of(results_of(tmp_path, fourier()), figure3)
    assert plot
    assert (
        plot.title
        == "From 0.5π up, the upsample branch carries relatively more than attention in 2 of 3 blocks"
    )
    drawn = words_in(plot)
    assert {"EMSAv2: their sum", "attention branch", "upsample branch"} < set(drawn)
    assert {"stage1.0", "stage2.0"} < set(drawn)  # where a stage begins, and the last
    assert "stage1.1" not in drawn
    # a line a block in each of three panels, every point of it with a marker
    points = sum(map(len, FREQUENCIES)) * 3
    assert plot.svg.count("<use") >= points


def test_a_cka_of_few_images_has_no_figure_and_of_some_no_claim(tmp_path):
    for used in (4, 15):
        few = cka(images={**SYNTHETIC, "used": used})
        assert plot_of(results_of(tmp_path / str(used), few), figure4) is None
    for used, told in ((16, False), (63, False), (64, True)):
        plot = plot_of(results_of(tmp_path / str(used), cka(images={**SYNTHETIC, "used": used})), figure4)
        assert plot
        assert ("least alike in" in plot.title) is told
        assert ("too few images to tell blocks apart" in plot.title) is not told


def test_a_few_photographs_do_not_hide_what_more_images_show(tmp_path):
    few = cka(weights=TRAINED, images={**PHOTOGRAPHS, "used": 5, "found": 5})
    plot = plot_of(results_of(tmp_path, few, cka(images=MANY)), figure4)
    assert plot
    assert "64 synthetic images" in plot.alt


def test_figure_4_names_the_blocks_in_which_the_branches_are_least_and_most_alike(tmp_path):
    plot = plot_of(results_of(tmp_path, cka(images=MANY)), figure4)
    assert plot
    assert plot.title == (
        "Upsample and attention branch are least alike in stage1.1 (CKA 0.00), most in stage2.0 (0.84)"
    )
    drawn = words_in(plot)
    assert {"attn_com", "up_com", "up_attn", "1.0", "1.1", "2.0"} < set(drawn)


def test_a_cka_below_0_is_drawn_with_its_sign(tmp_path):
    below = cka(images=MANY)
    below["result"]["cka"] = {**CKA, "up_attn": [-0.3, 0.1, 0.2]}
    plot = plot_of(results_of(tmp_path, below), figure4)
    assert plot
    assert "least alike in stage1.0 (CKA −0.30)" in plot.title


def test_each_plot_says_what_its_row_does_and_where_it_was_computed(tmp_path):
    rows = results_of(tmp_path, fourier(), cka())
    said = "ResTv2-T at 224 × 224, initial weights, 16 synthetic images: curves of an untrained network."
    for plot in (plot_of(rows, figure3), plot_of(rows, figure4)):
        assert plot
        assert said in words_in(plot)
        assert said in plot.alt
        assert any(text.startswith("Computed on SYNTHETIC CPU") for text in words_in(plot))


def test_of_several_rows_the_one_that_says_most_is_drawn(tmp_path):
    """Trained weights before photographs before the newest."""
    when = "2026-11-22T{:02}:00:00+00:00".format
    rows = [
        cka("restv2_small[weights=a.pth]@224:b16:fp32:eager", weights=TRAINED, when=when(1)),
        cka("restv2_base[weights=a.pth]@224:b16:fp32:eager", weights=TRAINED, when=when(2)),
        cka("restv2_large[images=val]@224:b16:fp32:eager", images=PHOTOGRAPHS, when=when(3)),
        cka("restv2_tiny@224:b16:fp32:eager", when=when(4)),
    ]
    for number, expected in ((0, "ResTv2-B"), (2, "ResTv2-L"), (3, "ResTv2-T")):
        plot = plot_of(results_of(tmp_path / str(number), *rows[number:]), figure4)
        assert plot
        assert f"{expected} at" in plot.alt


def test_without_an_analysis_there_is_no_figure(tmp_path):
    failed = {"outcome": "failed", "reason": "out of memory", "result": None}
    for number, rows in enumerate(
        [[synthetic.row("peaks", "cpu", {"tflops": {"fp32": 0.1}})], [{**cka(), **failed}]]
    ):
        results = results_of(tmp_path / str(number), *rows)
        assert plot_of(results, figure3) is plot_of(results, figure4) is None


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = results_of(tmp_path, fourier())
    assert plot_of(rows, figure3) == plot_of(rows, figure3)


def test_one_block_of_one_frequency_is_still_drawn(tmp_path):
    """A 32 × 32 image has no more in stage 4."""
    small, alike = fourier(), cka(images=MANY)
    small["result"] |= {
        "blocks": ["stage4.0"],
        "frequencies": [[0]],
        "log_amplitude": {"com": [[0]], "attn": [[0]], "up": [[0]]},
    }
    alike["result"] |= {"blocks": ["stage4.0"], "cka": {name: [0.5] for name in CKA}}
    results = results_of(tmp_path, small, alike)
    third, fourth = plot_of(results, figure3), plot_of(results, figure4)
    assert third
    assert third.title == "The maps are too small for high frequencies"
    assert fourth
    assert fourth.title == "Upsample and attention branch of stage4.0 have a CKA of 0.50"
