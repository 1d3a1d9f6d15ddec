"""Rows read and checked: what an analysis says it is of, and damaged rows."""

import pytest

from reports.branch_rows import Spectra
from tests.support.analyses import CASE, CKA, CURVES, FREQUENCIES, OWN, PHOTOGRAPHS, TRAINED, cka, fourier
from tests.support.reporting import results_of


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
    results = results_of(tmp_path, damaged, good)
    assert [row["case"] for row in results.others] == [good["case"]]
    (problem,) = results.problems
    assert problem.startswith(f"row {harness} {CASE}: ")
    assert problem.endswith(", passed over")
