"""Jobs, one a row of a study; and HARNESSES, the table of who does them and what their rows depend on. No torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cases, describe, images, record, roofline
from bench.cases import Case
from bench.errors import UsageError
from bench.machine import variables
from bench.machine.devices import Device, as_dict
from bench.machine.provenance import OURS, ROOT, import_closure, source_hash, threads
from bench.protocols import PROTOCOLS, Rules
from bench.record import Row

if TYPE_CHECKING:
    from bench.study import Study

COUNT_LIMIT_S = 300
ANALYSIS_LIMIT_S = 3600  # the largest model and image, 256 of them, on a few cores
START_S = 3.0  # building and checking a case
HEAD_TIMES = {"mask_rcnn": 3, "upernet": 8}  # a head's time in those of its ResTv2-T, by MACs
AMPERE = 8  # the first major compute capability with bf16 units
ANALYSIS_BATCH = 16  # whatever the machine, because CKA is an estimate over minibatches


# ---- how a harness takes a case


def defaults(device: Device) -> tuple[int, str]:
    """Batch and dtype where neither case nor protocol says: the profile's; one image in fp32 on a CPU."""
    if device.kind == "cpu":
        return 1, "fp32"
    return (device.profile.batch, device.profile.dtype) if device.profile else (64, "fp16")


def for_timing(case: Case, device: Device, rules: Rules) -> Case:
    """The case to be timed: its open parts taken from the protocol, else from the device's defaults."""
    batch, dtype = defaults(device)
    if case.mode == "train" and dtype == "fp16" and not case.has("autocast"):  # which takes no fp16 weights
        major = int((device.compute_capability or "0").partition(".")[0])
        dtype = "bf16" if major >= AMPERE else "fp32"
    return case.resolve(rules.batch or batch, rules.dtype or dtype)


def for_counting(case: Case, device: Device, rules: Rules) -> Case:
    """The case to be counted: one image's forward, whatever else is done to how many in which dtype."""
    options = tuple(case.model_options.items())
    return replace(case, options=options, batch=None, dtype=None, mode="infer")


def as_asked(case: Case, device: Device, rules: Rules) -> Case:
    """The case as it stands, for a count that somebody reads at once."""
    return case


def for_analysis(case: Case, device: Device, rules: Rules) -> Case:
    """The case to be analysed: in fp32, in batches of ANALYSIS_BATCH images, where it says nothing else.

    Raises:
        UsageError: the folder of images that it names is not there, or has none in it.
    """
    try:
        _photos(case)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return case.resolve(ANALYSIS_BATCH, "fp32")


def _photos(case: Case) -> images.Photos | None:
    """The photographs that the case names; None for synthetic images.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    folder = case.option("images")
    return images.find(Path(folder)) if folder else None


# ---- how long a harness may take, in seconds: a guess where no row tells


def _image_s(device: Device) -> float:
    """Seconds of an image of 224×224: about a ResTv2-T's on two cores, or on a GPU of 2017."""
    return 0.1 if device.kind == "cpu" else 0.001


def guess_half_a_second(asked: Sequence[Case], device: Device, rules: Rules) -> float:
    """Half a second, for a job that runs no model on real data."""
    return 0.5


def guess_timing(asked: Sequence[Case], device: Device, rules: Rules) -> float:
    """Seconds of timing a case, by its pixels, its head and its mode; of two interleaved, by the first."""
    iterations, cap_s, case = rules.warmup_iterations + rules.min_samples, rules.cap_s, asked[0]
    image_s = _image_s(device) * HEAD_TIMES.get(case.head, 1)
    if case.mode == "train":
        image_s *= 3  # backward has twice the forward's products
    if case.takes_tokens:
        image_s /= 10  # a part of one of eleven blocks
    if len(asked) == 2:  # A B B A
        iterations, cap_s = 4 * iterations, 2 * cap_s
    return START_S + max(cap_s, iterations * image_s * _images_of_224(case) * (case.batch or 1))


def guess_analysis(asked: Sequence[Case], device: Device, rules: Rules) -> float:
    """Seconds of an analysis, by the number of images that it looks at."""
    try:
        photos = _photos(asked[0])
    except ValueError:
        return START_S
    return START_S + 3 * _image_s(device) * (len(photos.files) if photos else images.SYNTHETIC)


@cache
def _images_of_224(case: Case) -> float:
    """Pixels of one iteration, in 224×224 images; 0 if the mix cannot be read."""
    sizes = [case.size]
    if case.mix:
        try:
            sizes = images.representatives(images.read(case.mix.source), case.mix.shapes)
        except ValueError:
            return 0.0
    return sum(height * width for height, width in sizes) / 224**2


# ---- the harnesses


@dataclass(frozen=True)
class Harness:
    """A way to measure one quantity: a function of bench/harness/<module>.py, and what its rows depend on.

    The function takes a job's cases and rules, `say` for what it is doing, and `spent` for what took its seconds. It
    returns the row's `result` and the notes that a reader must see. Without more said, it is a harness like
    throughput: cases with the device's batch and dtype, rows for one device and one protocol.
    """

    module: str
    function: str = "run"
    describe: Callable[[Row], str] = describe.anything  # a good row in one line
    resolve: Callable[[Case, Device, Rules], Case] = for_timing  # fills the case's open parts in
    guess_s: Callable[[Sequence[Case], Device, Rules], float] = guess_timing
    rules: tuple[str, ...] = ("time",)  # keys of cases.RULES: what its cases have to keep besides
    limit_s: float | None = None  # a job that takes longer is taken for hung; None: the protocol's
    by_protocol: bool = True  # a row stands for its protocol alone
    by_device: bool = True  # a row stands for its device alone
    in_rounds: bool = False  # done once a visit, each in a process of its own, in an order that is shuffled
    is_timed: bool = False  # seconds of the case itself: a study of it counts MACs too, and may compare
    in_studies: bool = True  # a study can name it
    is_announced: bool = True  # a good row is worth a line on the screen


HARNESSES: dict[str, Harness] = {
    "throughput": Harness("speed", "throughput", describe.throughput, is_timed=True, in_rounds=True),
    "latency": Harness("speed", "latency", describe.latency, is_timed=True, in_rounds=True),
    "profile": Harness(
        *("profile", "run", describe.profile), rules=("profile", "time"), is_timed=True, in_rounds=True
    ),
    "compare": Harness(
        *("speed", "compare", describe.comparison),
        rules=("compare", "time"),
        in_studies=False,
        in_rounds=True,
    ),
    "turns": Harness("turns", in_studies=False, in_rounds=True),
    "peaks": Harness(
        *("speed", "peaks", describe.peaks),
        guess_s=guess_half_a_second,
        limit_s=COUNT_LIMIT_S,
        in_studies=False,
    ),
    "macs": Harness(
        *("macs", "run", describe.macs, for_counting, guess_half_a_second),
        rules=(),
        limit_s=COUNT_LIMIT_S,
        by_protocol=False,
        by_device=False,
        in_studies=False,
        is_announced=False,
    ),
    **{
        name: Harness(
            *("macs", name, describe.macs, as_asked, guess_half_a_second),
            rules=rules,
            limit_s=COUNT_LIMIT_S,
            by_protocol=False,
            by_device=False,
            in_studies=False,
        )
        for name, rules in (("breakdown", ()), ("checked_breakdown", ("trace",)))
    },
    **{
        analysis: Harness(
            *("branches", analysis, describe.branches, for_analysis, guess_analysis),
            rules=("analyse",),
            limit_s=ANALYSIS_LIMIT_S,
            by_protocol=False,
        )
        for analysis in ("fourier", "cka")
    },
}
ANALYSES = tuple(name for name, harness in HARNESSES.items() if harness.module == "branches")


# ---- jobs


@dataclass(frozen=True)
class Job:
    """One row to be: what is measured of which cases, under which rules, and the study that asks."""

    harness: str
    cases: tuple[Case, ...]  # none: the machine itself; two: the first compared with the second
    rules: Rules
    study: str | None = None
    visit: int = 0

    @property
    def visits(self) -> int:
        """The number of visits that the case is to have."""
        return self.rules.visits if HARNESSES[self.harness].in_rounds else 1

    @property
    def text(self) -> str:
        """The cases as a row has them."""
        return " / ".join(map(str, self.cases)) or "cpu"

    @property
    def limit_s(self) -> float:
        """Seconds after which the job is taken for hung."""
        return HARNESSES[self.harness].limit_s or self.rules.limit_s

    @property
    def users_modules(self) -> set[str]:
        """The users' modules that the cases are made of."""
        return {case.model.partition(":")[0] for case in self.cases if case.is_users}

    def order(self) -> dict[str, Any]:
        """The job as the worker reads it: text at the pipe."""
        return {
            "harness": self.harness,
            "cases": [str(case) for case in self.cases],
            "rules": self.rules.as_dict(),
        }


def job_of(harness: str, device: Device, rules: Rules, *asked: Case, study: str | None = None) -> Job:
    """A job of cases as they were asked for: held to the harness's rules, and their open parts filled in.

    Raises:
        UsageError: a case breaks one of the harness's rules, or cannot be run once it is filled in.
    """
    entry = HARNESSES[harness]
    for case in asked:
        for purpose in entry.rules:
            cases.check(case, purpose)
        if entry.module != "macs":  # a count opens no weights
            _check_weights(case)
    resolved = tuple(entry.resolve(case, device, rules) for case in asked)
    trained = [case.dtype for case in resolved if case.mode == "train"]
    if trained:  # an inference beside a step takes its dtype, where that is not the device's own
        resolved = tuple(
            replace(case, dtype=own.dtype or trained[0]) for case, own in zip(resolved, asked, strict=True)
        )
    for case in resolved:
        cases.check(case, "run")  # [autocast] is not for the fp32 that a CPU fills in
    return Job(harness, resolved, rules, study)


def _check_weights(case: Case) -> None:
    """See that the weights of a case are there, before a worker starts for them.

    Raises:
        UsageError: there is no such file.
    """
    file = Path(case.option("weights"))
    if not case.has("weights"):
        return
    try:
        if not file.exists():
            raise UsageError(f"cannot read {file}: no such file, in {case}")
        if not file.is_file():
            what = "a folder" if file.is_dir() else "a pipe or a device"
            raise UsageError(f"cannot read {file}: it is no file, but {what}, in {case}")
    except OSError as error:  # a loop of links, a name too long, a folder that may not be entered
        raise UsageError(f"cannot read {file}: {error.strerror}, in {case}") from None


def jobs_of(study: Study, device: Device, rules: Rules, *, quick: bool) -> list[Job]:
    """The jobs of a study: counts first, because they take no time, then each case, then the comparisons."""

    def ask(harness: str, *asked: Case) -> Job:
        return job_of(harness, device, rules, *asked, study=study.name)

    measured = [ask(study.harness, case) for case in study.parsed(device.kind, quick)]
    if not study.is_timed:
        return measured
    machine = [job_of("peaks", device, rules)] if device.kind == "cpu" else []
    counted = [ask("macs", case) for case in study.to_count(device.kind, quick)]
    compared = [ask("compare", *pair) for pair in study.compared(device.kind, quick)]
    return machine + counted + measured + compared


# Of the peak, what a model's core MACs usually come to: Table 1 of a CPU in fp32, and of GPUs in half precision.
USUAL_SHARE = {"cpu": 0.35, "cuda": 0.25}
MOST_S = 1e7  # that a row may have taken: more is no time
BUILD_S = 1.2  # a model of 40 M parameters on one core
# Iterations besides warm-up and samples: of the check, before and after, and of the first visit's reference in fp64.
CHECK_ITERATIONS, FIRST_CHECK_ITERATIONS = 3, 9


class Expectations:
    """The seconds that jobs may take, from rows that are there: those of before, and those of this run as they come."""

    def __init__(self, rows: Iterable[Row], device: Device) -> None:
        self.device = device
        self._took: dict[tuple[Any, ...], float] = {}
        self._macs: dict[str, Any] = {}
        self._peaks: Any = None
        for row in rows:
            self.learn(row)

    def learn(self, row: Row) -> None:
        """Take in what a row tells."""
        spent, protocol, result = (row.get(name) for name in ("spent", "protocol", "result"))
        if isinstance(spent, dict) and isinstance(protocol, dict) and isinstance(spent.get("all"), float):
            where = (row.get("harness"), row.get("case"), str(protocol.get("name")), bool(row.get("visit")))
            board = spent.get("board")  # is the round's, and not the case's
            took = spent["all"] - (board if isinstance(board, float) else 0.0)
            if 0 <= took < MOST_S:  # a damaged row must not be what a run is planned by
                self._took[where] = took
        if row.get("outcome") == "ok" and isinstance(result, dict):
            if row.get("harness") == "macs":
                self._macs[row["case"]] = result
            elif row.get("harness") == "peaks":
                self._peaks = result

    def seconds(self, job: Job) -> float:
        """Seconds that a job may take: what the same took before, whatever has changed since, else a guess.

        A first visit checks the outputs against a reference, and is expected to take what a first visit took. The guess
        is by the case's MACs and the machine's peak, once both are known.
        """
        for is_later in (bool(job.visit), not job.visit):
            took = self._took.get((job.harness, job.text, job.rules.name, is_later))
            if took is not None:
                return took
        entry = HARNESSES[job.harness]
        times = [self.iteration_s(case) for case in job.cases] if entry.in_rounds else []
        known = [seconds for seconds in times if seconds is not None]
        if not known or len(known) < len(job.cases):
            return entry.guess_s(job.cases, self.device, job.rules)
        return visit_s(known, job.rules, first=job.visit == 0)

    def of_all_visits(self, job: Job) -> float:
        """Seconds that all visits to a job's cases may take."""
        return sum(self.seconds(replace(job, visit=visit)) for visit in range(job.visits))

    def iteration_s(self, case: Case) -> float | None:
        """Seconds of an iteration by its MACs and the machine's peak; None where either is not known."""
        counted = for_counting(case, self.device, PROTOCOLS["default"][self.device.kind])
        try:
            macs = self._macs[str(counted)]["conventions"]["core"]["macs"]
            peak = roofline.peaks_of(as_dict(self.device), self._peaks).tflops[case.dtype or "fp32"]
            of_image = 2 * macs / (USUAL_SHARE[self.device.kind] * 1e12 * peak)
        except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError):
            return None
        return float(of_image * (case.batch or 1) * (3 if case.mode == "train" else 1))


def visit_s(iteration_s: Sequence[float], rules: Rules, *, first: bool) -> float:
    """Seconds of a visit to cases whose iterations take so long: building, checking, warming up and sampling."""
    in_block = 4 if len(iteration_s) == 2 else 1
    seconds = 0.0
    for one in iteration_s:
        samples = rules.min_samples * max(one, rules.sample_s) * in_block / len(iteration_s)
        seconds += BUILD_S + max(rules.warmup_s, (rules.warmup_iterations + 1) * one)
        seconds += max(rules.cap_s, samples) + one * (FIRST_CHECK_ITERATIONS if first else CHECK_ITERATIONS)
    return seconds


# ---- what makes a row good for reuse


def hashes_of_sources(jobs: Sequence[Job]) -> list[str]:
    """A hash for each job: of the code that makes its row, and of the user's files that the row depends on.

    The code is what the harness's module imports, directly or not, and the worker that calls it, which sets threads
    and limits; no list of it is kept.
    """
    folder = ROOT / "bench" / "harness"
    modules = {HARNESSES[job.harness].module for job in jobs}
    code = {name: (*import_closure(folder / f"{name}.py"), folder / "worker.py") for name in modules}
    known: dict[tuple[Path, ...], str] = {}
    hashes = []
    for job in jobs:
        own = (file for case in job.cases for file in own_files(case))
        paths = (*code[HARNESSES[job.harness].module], *own)
        if paths not in known:
            known[paths] = source_hash(paths)
        hashes.append(known[paths])
    return hashes


def key_of(
    job: Job, source: str, versions: dict[str, str | None], device: Device, *, by_type: bool = False
) -> str:
    """A short name for everything that must be equal for a row to be used again, its visit among it."""
    group = group_of(job, source, versions, device, by_type=by_type)
    return group if job.visits == 1 else record.key_of(group=group, visit=job.visit)


def group_of(
    job: Job, source: str, versions: dict[str, str | None], device: Device, *, by_type: bool = False
) -> str:
    """A short name for everything that the visits to a case must have in common.

    Args:
        by_type: not this very device, but one of its type, as shards are measured on.
    """
    entry = HARNESSES[job.harness]
    return record.key_of(
        harness=job.harness,
        case=job.text,
        source=source,
        versions=versions,
        device=[device.type if by_type else device.uuid, device.driver] if entry.by_device else None,
        variables=variables.recorded() if entry.by_device else None,
        threads=threads() if entry.by_device else None,
        protocol=job.rules.as_dict() if entry.by_protocol else None,
        **stamps(job),
    )


def stamps(job: Job) -> dict[str, Any]:
    """Marks of the images behind a job, which a case's text does not tell: shapes of a mix, a stamp of photographs."""
    try:
        if mixes := [case.mix for case in job.cases if case.mix]:
            return {"shapes": [sorted(images.shapes(images.read(mix.source)).items()) for mix in mixes]}
        photographs = [photos.stamp for case in job.cases if (photos := _photos(case))]
    except ValueError:  # gone since; the worker says so
        return {}
    return {"images": photographs[0]} if photographs else {}


def own_files(case: Case) -> list[Path]:
    """The user's files that a case depends on: weights, and the package or the file of `module:Class`."""
    paths = [Path(case.option("weights")).resolve()] if case.has("weights") else []
    if case.is_users:
        paths += users_files(case.model.partition(":")[0].partition(".")[0])
    # what was installed is known by its version, and may be large
    return [path for path in paths if path.exists() and "site-packages" not in path.parts]


def users_files(name: str) -> list[Path]:
    """The user's files behind a top-level module: its package or file, and those of every module that they import.

    Read from the source, and found as Python finds them; nothing is imported. What is installed, or ours, is left out.
    """
    todo, known, files = [name], set[str](), list[Path]()
    while todo:
        module = todo.pop()
        if module in known or module in sys.stdlib_module_names or module in OURS:
            continue
        known.add(module)
        spec = PathFinder.find_spec(module)
        found: list[str | None] = list(spec.submodule_search_locations or ()) if spec else []
        for path in (Path(place) for place in found or [spec.origin if spec else None] if place):
            if "site-packages" in path.parts or not path.exists():
                continue
            files.append(path)
            for source in path.rglob("*.py") if path.is_dir() else [path]:
                todo += _top_level_imports(source)
    return files


def _top_level_imports(path: Path) -> set[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # no Python source; the worker says what is wrong with it
        return set()
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
