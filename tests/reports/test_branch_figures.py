"""Figures 1, 3 and 4 as plots: what they say is worked out by hand from invented rows, and from the paper's table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from reports.branch_rows import Spectra
from reports.drawing import Plot
from reports.measured import Results, load

from reports import branches
from tests.support.synthetic_rows import row, write

INITIAL = {"source": "initial", "file": None, "hash": None}
TRAINED = {"source": "file", "file": "restv2_tiny_224.pth", "hash": "invented"}
OWN = {"source": "module", "file": None, "hash": None}
SYNTHETIC = {"source": "synthetic", "used": 16, "found": 16, "hash": None, "folder": None}
PHOTOGRAPHS = {"source": "folder", "used": 256, "found": 50000, "hash": "invented", "folder": "val"}

BLOCKS = ["stage1.0", "stage1.1", "stage2.0"]
FREQUENCIES: list[list[float]] = [[0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1], [0, 2 / 3]]
# From 0.5π up, upsample less attention is 3·1 in the first block, 1 - 4 + 1 in the second, 0.5 in the third.
CURVES: dict[str, list[list[float]]] = {
    "com": [[0, -1, -2, -3, -4], [0, -1, -2, -3, -4], [0, -1]],
    "attn": [[0, -9, -3, -4, -5], [0, -9, -3, -1, -5], [0, -2]],
    "up": [[0, -9, -2, -3, -4], [0, 9, -2, -5, -4], [0, -1.5]],
}
CKA = {"attn_com": [0.5, 0.6, 0.9], "up_com": [0.9, 0.8, 0.95], "up_attn": [0.204, -0.004, 0.8449]}
CASE = "restv2_tiny@224:b16:fp32:eager"


def fourier(case: str = CASE, *, weights=INITIAL, images=SYNTHETIC, **more: Any) -> dict[str, Any]:
    result = {"blocks": BLOCKS, "frequencies": FREQUENCIES, "log_amplitude": CURVES}
    return row("fourier", case, {**result, "images": images, "weights": weights}, **more)


def cka(case: str = CASE, *, weights=INITIAL, images=SYNTHETIC, **more: Any) -> dict[str, Any]:
    return row("cka", case, {"blocks": BLOCKS, "cka": CKA, "images": images, "weights": weights}, **more)


def results(tmp_path: Path, *rows: dict[str, Any]) -> Results:
    """Through a file, as a report reads them."""
    write(tmp_path, list(rows))
    return load(tmp_path)


def words(plot: Plot) -> list[str]:
    """Each text that is drawn."""
    return [
        re.sub(r"<[^>]+>", "", text).strip() for text in re.findall(r"<text.*?</text>", plot.svg, re.DOTALL)
    ]


# --- Figure 1 --------------------------------------------------------------------------------------------


def test_figure_1_draws_what_table_6_prints_and_says_that_it_was_not_measured():
    plot = branches.figure1()
    drawn = words(plot)
    for top1, rest in {
        "70.46": "1144, 1.94 GMACs",
        "72.38": "617, 4.81 GMACs",
        "72.53": "947, 1.95 GMACs",
        "74.108": "1091, 1.44 GMACs",
        "75.06": "625, 4.37 GMACs",
        "75.04": "926, 1.45 GMACs",
    }.items():
        assert top1 in drawn
        assert rest in drawn
    assert {"PVT-Tiny", "ResT-Lite"} < set(drawn)
    assert any("accuracy is not measured here" in text for text in drawn)


def test_figure_1_s_title_is_worked_out_from_them():
    """72.38 - 70.46, 75.06 - 74.108; 72.53 - 72.38 is the larger gap; 947 / 617, 926 / 625."""
    assert branches.figure1().title == (
        "Downsampling costs 1.92 and 0.95 points of Top-1; EMSAv2 is within 0.15 of standard attention, "
        "at 1.53 and 1.48× its throughput"
    )


# --- Figures 3 and 4 -------------------------------------------------------------------------------------


def test_figure_3_counts_the_blocks_in_which_upsampling_carries_more_of_the_high_frequencies(tmp_path):
    plot = branches.figure3(results(tmp_path, fourier()))
    assert plot
    assert (
        plot.title
        == "From 0.5π up, the upsample branch carries relatively more than attention in 2 of 3 blocks"
    )
    drawn = words(plot)
    assert {"EMSAv2: their sum", "attention branch", "upsample branch"} < set(drawn)
    assert {"stage1.0", "stage2.0"} < set(drawn)  # where a stage begins, and the last
    assert "stage1.1" not in drawn
    # a line a block in each of three panels, every point of it with a marker
    points = sum(map(len, FREQUENCIES)) * 3
    assert plot.svg.count("<use") >= points


def test_figure_4_names_the_blocks_in_which_the_branches_are_least_and_most_alike(tmp_path):
    plot = branches.figure4(results(tmp_path, cka()))
    assert plot
    assert plot.title == (
        "Upsample and attention branch are least alike in stage1.1 (CKA 0.00), most in stage2.0 (0.84)"
    )
    drawn = words(plot)
    assert {"attn_com", "up_com", "up_attn", "1.0", "1.1", "2.0"} < set(drawn)


def test_a_cka_below_0_is_drawn_with_its_sign(tmp_path):
    below = cka()
    below["result"]["cka"] = {**CKA, "up_attn": [-0.3, 0.1, 0.2]}
    plot = branches.figure4(results(tmp_path, below))
    assert plot
    assert "least alike in stage1.0 (CKA −0.30)" in plot.title


@pytest.mark.parametrize(
    ("case", "more", "said"),
    [
        (
            CASE,
            {},
            "ResTv2-T at 224 × 224, initial weights, 16 synthetic images: curves of an untrained network.",
        ),
        (
            "restv2_tiny[weights=w/restv2_tiny_224.pth]@224x320:b16:fp32:eager",
            {"weights": TRAINED},
            "ResTv2-T at 224 × 320, weights of restv2_tiny_224.pth, 16 synthetic images, no photographs.",
        ),
        (
            "restv2_tiny[images=x/val,mhim,weights=w/restv2_tiny_224.pth]@224:b16:fp32:eager",
            {"weights": TRAINED, "images": PHOTOGRAPHS},
            "ResTv2-T [mhim] at 224 × 224, weights of restv2_tiny_224.pth, 256 of 50,000 images in val.",
        ),
        (
            "restv2_tiny[images=x/val]@224:b16:fp32:eager",
            {"images": {**PHOTOGRAPHS, "found": 256}},
            "ResTv2-T at 224 × 224, initial weights, 256 images in val: curves of an untrained network.",
        ),
        (
            "my.nets:Net@224:b16:fp32:eager",
            {"weights": OWN, "images": PHOTOGRAPHS},
            "my.nets:Net at 224 × 224, weights as its class makes them, 256 of 50,000 images in val.",
        ),
    ],
    ids=["initial", "trained", "trained on photographs", "initial on photographs", "own"],
)
def test_a_row_says_which_weights_and_images_it_is_of(case, more, said):
    assert Spectra(fourier(case, **more)).subtitle == said


def test_each_plot_says_what_its_row_does_and_where_it_was_computed(tmp_path):
    rows = results(tmp_path, fourier(), cka())
    said = "ResTv2-T at 224 × 224, initial weights, 16 synthetic images: curves of an untrained network."
    for plot in (branches.figure3(rows), branches.figure4(rows)):
        assert plot
        assert said in words(plot)
        assert said in plot.alt
        assert any(text.startswith("Computed on SYNTHETIC CPU") for text in words(plot))


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
        plot = branches.figure4(results(tmp_path / str(number), *rows[number:]))
        assert plot
        assert f"{expected} at" in plot.alt


def test_without_an_analysis_there_is_no_figure(tmp_path):
    failed = {"outcome": "failed", "reason": "out of memory", "result": None}
    for number, rows in enumerate([[row("peaks", "cpu", {"tflops": {"fp32": 0.1}})], [{**cka(), **failed}]]):
        found = results(tmp_path / str(number), *rows)
        assert branches.figure3(found) is branches.figure4(found) is None


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = results(tmp_path, fourier())
    assert branches.figure3(rows) == branches.figure3(rows)


def test_one_block_of_one_frequency_is_still_drawn(tmp_path):
    """As of a 32 × 32 image in stage 4."""
    small, alike = fourier(), cka()
    small["result"] |= {
        "blocks": ["stage4.0"],
        "frequencies": [[0]],
        "log_amplitude": {"com": [[0]], "attn": [[0]], "up": [[0]]},
    }
    alike["result"] |= {"blocks": ["stage4.0"], "cka": {name: [0.5] for name in CKA}}
    found = results(tmp_path, small, alike)
    third, fourth = branches.figure3(found), branches.figure4(found)
    assert third
    assert third.title == "The maps are too small for high frequencies"
    assert fourth
    assert fourth.title == "Upsample and attention branch of stage4.0 have a CKA of 0.50"


@pytest.mark.parametrize(
    ("harness", "damage"),
    [
        ("fourier", {"blocks": []}),
        ("fourier", {"frequencies": FREQUENCIES[:2]}),
        ("fourier", {"frequencies": [[0, 0.5, 1], *FREQUENCIES[1:]]}),
        ("fourier", {"frequencies": [[], *FREQUENCIES[1:]]}),
        ("fourier", {"log_amplitude": {name: CURVES[name] for name in ("com", "attn")}}),
        ("fourier", {"log_amplitude": {**CURVES, "up": [[0, 1, 2, 3, None], [0, 1, 2, 3, 4], [0, 1]]}}),
        ("fourier", {"images": {"source": "folder"}}),
        ("cka", {"cka": {**CKA, "up_com": [0.1, 0.2]}}),
        ("cka", {"cka": {**CKA, "up_com": [0.1, 0.2, float("nan")]}}),
        ("cka", {"cka": None}),
        ("cka", {"weights": {"source": "thin air", "file": None}}),
        ("cka", {"weights": None}),
        ("cka", {"blocks": 3}),
    ],
    ids=str,
)
def test_a_damaged_row_is_passed_over_and_said(tmp_path, harness, damage):
    damaged = fourier() if harness == "fourier" else cka()
    damaged["result"] |= damage
    good = (
        fourier(CASE.replace("tiny", "small")) if harness == "fourier" else cka(CASE.replace("tiny", "small"))
    )
    found = results(tmp_path, damaged, good)
    assert [each["case"] for each in found.others] == [good["case"]]
    (problem,) = found.problems
    assert problem.startswith(f"row {harness} {CASE}: ")
    assert problem.endswith(", passed over")
