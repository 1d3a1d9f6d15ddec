"""Results that many tests of the reports look at, each made once."""

from __future__ import annotations

import pytest

from bench.studies import STUDIES
from reports.figures import Plot
from reports.results import Results
from tests.support import synthetic_rows as synthetic
from tests.support.analyses import cka, fourier
from tests.support.reporting import page_and_plots, results_of, row_where


@pytest.fixture(scope="session")
def cpu(tmp_path_factory) -> Results:
    """Table 1 on a CPU."""
    return results_of(tmp_path_factory.mktemp("cpu"), synthetic.study_rows())


@pytest.fixture(scope="session")
def everything(tmp_path_factory) -> Results:
    """Each study run on a CPU, into the file that its run leaves."""
    root = tmp_path_factory.mktemp("everything")
    files = {name: synthetic.study_rows(name) for name, study in STUDIES.items() if study.is_timed}
    return results_of(root, **files, figure3=[fourier(study="figure3")], figure4=[cka(study="figure4")])


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> Results:
    """Table 1 and the sweep, with everything that can go wrong in a row."""
    rows = synthetic.study_rows() + synthetic.study_rows("sweep")
    row_where(rows, "throughput", "swin_base@384").update(
        outcome="failed", reason="out of memory <script>alert(1)</script>", result=None
    )
    results = results_of(tmp_path_factory.mktemp("swept"), rows)
    results.problems.append("run.jsonl line 7: <script>alert(2)</script>")
    return results


@pytest.fixture(scope="session")
def swept_page(swept) -> tuple[str, list[Plot]]:
    """The page of that, and its figures."""
    return page_and_plots(swept)


@pytest.fixture(scope="session")
def html(swept_page) -> str:
    """The page of that."""
    return swept_page[0]


@pytest.fixture(scope="session")
def whole_page(everything) -> tuple[str, list[Plot]]:
    """The page of every study run on a CPU, and its figures."""
    return page_and_plots(everything)


@pytest.fixture
def partial(tmp_path) -> Results:
    """A GPU on which some was measured, some failed, and nobody has tried or counted the rest."""
    rows = synthetic.study_rows(kind="cuda") + synthetic.study_rows("sweep", kind="cuda")[::3]
    for text in ("regnety_8g@224", "restv2_small@384", "convnext_base@384"):
        rows.remove(row_where(rows, "throughput", text))
    rows.remove(row_where(rows, "macs", "swin_small@224"))
    failed = {"outcome": "failed", "reason": "out of memory, even at batch 1", "result": None}
    row_where(rows, "throughput", "swin_base@384").update(failed)
    noisy = row_where(rows, "throughput", "restv2_large@384")["result"]
    noisy.update(samples_s=[0.001, 0.002, 0.003, 0.01, 10, 20, 30], peak_memory_bytes=150_000_000_000)
    return results_of(tmp_path / "results", rows)
