"""What is checked out beside accepted figures. Processes are made up; test_alone.py has a real one."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from bench import baseline, describe, record, regress, taking, trend
from bench.cases import parse
from bench.errors import Failure, Undecided, UsageError
from bench.gate import settle
from bench.machine import devices
from bench.machine.devices import Device, cpu_device
from bench.revisions import Repository
from bench.sides import CaseFailed
from bench.stats import Verdict
from bench.taking import Reading
from tests.support.revisions import commit
from tests.support.runs import Heard

CASES = [parse("core_tiny[stage=1]@224"), parse("restv2_lite@32")]
TEXTS = [str(case.resolve(1, "fp32")) for case in CASES]


class MadeUp:
    """A process on a machine whose times, and its own product and copy, are class variables."""

    case: ClassVar[float] = 1.0
    product: ClassVar[float] = 1.0
    copy: ClassVar[float] = 1.0
    noise: ClassVar[float] = 0.001
    macs: ClassVar[int] = 100
    broken: ClassVar[str] = ""
    visits: ClassVar[int] = 0
    stops_after: ClassVar[int] = 10**9
    source: ClassVar[random.Random] = random.Random(1)

    def __init__(self, device: Device, folders: Any) -> None:
        self.is_new = True

    def start(self) -> None:
        self.is_new = False

    def kill(self) -> None:
        self.is_new = True

    def close(self) -> None:
        self.kill()

    def count(self, job: Any) -> list[dict[str, int]]:
        return [{"MACs": self.macs}]

    def visit(self, job: Any, digests: Any) -> dict[str, Any]:
        if self.broken:
            raise CaseFailed(0, self.broken, refused=False)
        if MadeUp.visits >= self.stops_after:
            raise KeyboardInterrupt
        MadeUp.visits += 1
        times = [
            seconds * exp(self.source.gauss(0, self.noise))
            for seconds in (self.case, self.product, self.copy)
        ]
        return {
            "rounds": [times] * 6,
            "clocks_mhz": None,
            "peak_memory_bytes": [None],
            "kernels": [{}],
            "digests": [None],
            "loaded": [{"torch": "2"}],
            "notes": [],
        }


@pytest.fixture
def hers(tmp_path, monkeypatch) -> Path:
    """A repository, and a made-up process on an idle machine."""
    random.seed(1)  # by which cases are shuffled
    monkeypatch.setattr(taking, "Sides", MadeUp)
    monkeypatch.setattr(trend, "CALIBRATED", replace(taking.CALIBRATED, visit=cast(Any, MadeUp.visit)))
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 0.1)
    for name, value in vars(MadeUp).copy().items():
        if not callable(value) and not name.startswith("__"):
            monkeypatch.setattr(MadeUp, name, value)
    monkeypatch.setattr(MadeUp, "source", random.Random(1))
    folder = tmp_path / "hers"
    folder.mkdir()
    (folder / "code.py").write_text("1")
    commit(folder, "first")
    return folder


def accepted(folder: Path, reason: str = "the first", **more: Any) -> Any:
    repository = Repository(folder, ["code.py"])
    device = more.pop("device", cpu_device())
    return trend.accept(
        *(repository, CASES, device, folder.parent / "results", Heard(), reason),
        folder=folder.parent / "baselines",
        **more,
    )


def compared(folder: Path, **more: Any) -> tuple[regress.Outcome, Heard]:
    repository, heard = Repository(folder, ["code.py"]), Heard()
    device = more.pop("device", cpu_device())
    outcome = trend.compare(
        *(repository, more.pop("cases", CASES), device, folder.parent / "results", heard),
        folder=folder.parent / "baselines",
        **more,
    )
    return outcome, heard


@pytest.mark.parametrize(
    ("case", "product", "copy", "verdict"),
    [
        (1.0, 1.0, 1.0, Verdict.SAME),
        (1.1, 1.0, 1.0, Verdict.SLOWER),
        (0.9, 1.0, 1.0, Verdict.FASTER),
        (1.1, 1.1, 1.1, Verdict.UNDECIDED),  # a slower machine
        (1.1, 1.0, 1.1, Verdict.UNDECIDED),  # slower memory, and the case may live on it
        (1.1, 1.1, 1.0, Verdict.UNDECIDED),  # a slower clock
        (0.9, 0.9, 1.0, Verdict.UNDECIDED),
        (1.0, 0.9, 0.9, Verdict.UNDECIDED),  # slower code on a faster machine
        (1.0, 0.9, 1.0, Verdict.SAME),
        (1.2, 1.1, 1.05, Verdict.SLOWER),  # more than either explains
    ],
)
def test_slower_code_is_told_from_a_slower_machine(hers, monkeypatch, case, product, copy, verdict):
    accepted(hers)
    for name, value in (("case", case), ("product", product), ("copy", copy)):
        monkeypatch.setattr(MadeUp, name, value)
    outcome, _ = compared(hers)
    assert {finding.verdict for finding in outcome.findings.values()} == {verdict}
    assert list(outcome.findings) == TEXTS
    assert outcome.findings[TEXTS[0]].ratio.value == pytest.approx(case, rel=0.005)
    assert outcome.exit_status == {Verdict.SLOWER: 1, Verdict.UNDECIDED: 3}.get(verdict, 0)
    if verdict is Verdict.UNDECIDED:
        assert "the machine's own product takes" in outcome.findings[TEXTS[0]].reason


@pytest.mark.parametrize(
    ("noise", "effect", "least", "most"),
    [(0.002, 0.0, 0, 0), (0.03, 0.0, 0, 0), (0.002, 0.02, 48, 50), (0.01, 0.04, 45, 50)],
)
def test_slower_code_is_found_and_equal_code_is_not_called_slower(noise, effect, least, most):
    source = random.Random(f"{noise} {effect}")

    def reading(more: float = 0.0) -> Reading:
        return Reading(*((1 + extra) * exp(source.gauss(0, noise)) for extra in (more, 0.0, 0.0)))

    def verdict() -> Verdict:
        then = {"a": [reading() for _ in range(trend.RESTARTS)]}
        judge = partial(trend.judge_readings, then=then)
        return settle(["a"], lambda asked: {case: reading(effect) for case in asked}, judge)["a"].verdict

    assert least <= [verdict() for _ in range(50)].count(Verdict.SLOWER) <= most


def test_the_newest_figures_hold_and_each_keeps_its_reason(hers, monkeypatch):
    accepted(hers)
    monkeypatch.setattr(MadeUp, "case", 1.1)
    path, last = accepted(hers, "  it checks\nmore now ", fresh=True)
    outcome, _ = compared(hers)
    assert {finding.verdict for finding in outcome.findings.values()} == {Verdict.SAME}
    kept = baseline.read(cpu_device(), path.parent)
    assert [each.reason for each in kept] == ["the first", "it checks more now"]
    assert kept[-1] == last
    assert describe.accepted(last)[-1].endswith(": it checks more now")
    assert re.fullmatch(
        r"1\.(1|099|101) s \(.* to .*\), 12 restarts", describe.accepted(last)[0].split(": ")[1]
    )


def test_what_is_counted_is_compared_exactly(hers, monkeypatch):
    accepted(hers)
    monkeypatch.setattr(MadeUp, "macs", 101)
    outcome, _ = compared(hers)
    assert outcome.changes == {text: ["MACs 100 → 101"] for text in TEXTS}
    assert outcome.exit_status == 0


def test_the_environment_that_changed_is_named_before_anything_is_measured(hers, monkeypatch):
    accepted(hers)
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    seen = MadeUp.visits

    class Listens(Heard):
        def say(self, text: str | None) -> None:
            super().say(text)
            if text and text.startswith("changed since"):
                assert MadeUp.visits == seen

    monkeypatch.setattr("tests.bench.test_trend.Heard", Listens)
    outcome, heard = compared(hers)
    assert heard.said[0] == "changed since figures were accepted (the first): OMP_PROC_BIND not set → close"
    assert describe.outcome(outcome)[0] == f"note: {heard.said[0]}"


def test_acceptance_that_was_stopped_goes_on_and_writes_nothing_before_it_is_whole(hers, monkeypatch):
    monkeypatch.setattr(MadeUp, "stops_after", 9)
    with pytest.raises(KeyboardInterrupt):
        accepted(hers)
    assert not (hers.parent / "baselines").exists()
    monkeypatch.setattr(MadeUp, "stops_after", 10**9)
    accepted(hers)
    rows = record.read(hers.parent / "results" / regress.FOLDER).sealed
    assert len(rows) == MadeUp.visits == trend.RESTARTS * len(CASES)


def test_the_same_figures_are_not_accepted_twice(hers):
    path, _ = accepted(hers)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="are accepted already"):
        accepted(hers, "again")
    assert path.read_bytes() == before


def test_what_was_accepted_is_no_measurement_of_what_is_compared(hers):
    accepted(hers)
    visits = MadeUp.visits
    compared(hers)
    assert MadeUp.visits > visits


def test_without_accepted_figures_it_says_how_to_get_them(hers):
    with pytest.raises(
        UsageError, match=r"no figures are accepted for cpu: .* make baseline GPU=cpu"
    ) as raised:
        compared(hers)
    assert raised.value.status == 2
    accepted(hers)
    with pytest.raises(UsageError, match="no figures of restv2_tiny@224:b1:fp32:eager are accepted"):
        compared(hers, cases=[parse("restv2_tiny@224")])
    outcome, _ = compared(hers, cases=[*CASES, parse("restv2_tiny@224")])
    assert outcome.left_out == {"restv2_tiny@224:b1:fp32:eager": "no figures of it are accepted"}


def test_nothing_is_accepted_without_a_reason_from_a_dirty_tree_or_of_what_does_not_run(hers, monkeypatch):
    with pytest.raises(UsageError, match="for a reason"):
        accepted(hers, " \n")
    monkeypatch.setattr(MadeUp, "broken", "ZeroDivisionError")
    with pytest.raises(Failure, match=r"does not run in \w{12}: ZeroDiv"):
        accepted(hers)
    (hers / "code.py").write_text("2")
    with pytest.raises(UsageError, match="changes that no commit has"):
        accepted(hers)
    assert not (hers.parent / "baselines").exists()


def test_a_host_or_a_gpu_that_others_use_is_refused_and_nothing_is_overwritten(hers, monkeypatch):
    path, _ = accepted(hers)
    before = path.read_bytes()
    gpu = Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0)
    monkeypatch.setattr(regress, "check_idle", lambda device: devices.check_idle(gpu, pause=lambda s: None))
    monkeypatch.setattr(devices, "busy_with", lambda uuid, pause: "busy: python (7)")
    for ask in (accepted, compared):
        with pytest.raises(Undecided, match="is busy: python") as raised:
            ask(hers, fresh=True)
        assert raised.value.status == 3
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 1e3)
    with pytest.raises(Undecided, match="the host is busy"):
        accepted(hers, fresh=True)
    assert path.read_bytes() == before


def test_another_cpu_than_the_baselines_is_refused(hers):
    accepted(hers)
    with pytest.raises(UsageError, match="another CPU"):
        compared(hers, device=replace(cpu_device(), uuid="CPU-other"))


def test_the_difference_of_readings_is_welchs():
    # case 2 % up in every reading, product and copy unchanged: hand calculation of means alone
    then = {"a": [Reading(1.0, 1.0, 1.0), Reading(1.001, 1.0, 1.0), Reading(0.999, 1.0, 1.0)] * 4}
    now = {"a": [Reading(1.02 * each.case, 1.0, 1.0) for each in then["a"]]}
    finding = trend.judge_readings(now, then)["a"]
    assert finding.verdict is Verdict.SLOWER
    assert finding.ratio.value == pytest.approx(1.02)
