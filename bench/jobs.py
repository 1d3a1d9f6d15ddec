"""What a study becomes: a job a row, with its limit, its expected time and its key. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bench import images
from bench.cases import Case, parse
from bench.errors import UsageError
from bench.machine.devices import Device
from bench.protocols import Rules
from bench.record import Row
from bench.studies import Study

COUNT_LIMIT_S = 300
ANALYSIS_LIMIT_S = 3600  # the largest model and image, 256 of them, on a few cores
HEAD_TIMES = {"mask_rcnn": 3, "upernet": 8}  # a ResTv2-T, by MACs
AMPERE = 8  # the first major compute capability with bf16 units
ANALYSES = ("fourier", "cka")  # of features, with harnesses of their own: bench/branches.py
ANALYSIS_BATCH = 16  # whatever the machine, because CKA is an estimate over minibatches

# A row stands for a new measurement only while the code that made it is the same.
SOURCES = {
    "macs": ("kernels", "models", *(f"bench/{name}.py" for name in ("harness/macs", "cases", "images"))),
    "peaks": ("bench/harness",),
}
TIMED_SOURCES = (
    "kernels",
    "models",
    "bench/harness",
    "bench/machine/state.py",
    *(f"bench/{name}.py" for name in ("cases", "images", "stats", "windowcost", "windowwork")),
)


@dataclass(frozen=True)
class Job:
    """One row to be: what to do, for which study, under which rules."""

    harness: str  # macs | throughput | latency | compare | peaks | fourier | cka
    case: str
    rules: Rules
    study: str | None = None
    other: str | None = None  # the second case of a comparison

    def order(self) -> dict[str, Any]:
        """What the worker is told."""
        if self.harness in ("macs", "peaks"):
            return {"do": "count" if self.harness == "macs" else "peaks", "case": self.case}
        if self.harness in ANALYSES:
            return {"do": "analyse", "analysis": self.harness, "case": self.case}
        if self.harness == "compare":
            return {"do": "compare", "a": self.case, "b": self.other, "rules": self.rules.as_dict()}
        return {"do": "measure", "case": self.case, "harness": self.harness, "rules": self.rules.as_dict()}

    @property
    def limit_s(self) -> float:
        if self.harness in ANALYSES:
            return ANALYSIS_LIMIT_S
        return COUNT_LIMIT_S if self.harness in ("macs", "peaks") else self.rules.limit_s


def expected_s(job: Job, rows: list[Row], device: Device) -> float:
    """Seconds that a job may take: what the same took before, whatever has changed since, else a guess."""
    for row in reversed(rows):
        same = (row["harness"], row["case"]) == (job.harness, job.case)
        if same and isinstance(row.get("spent"), dict) and isinstance(row.get("protocol"), dict):
            took = row["spent"].get("all")
            if row["protocol"].get("name") == job.rules.name and isinstance(took, float):
                return took
    if job.harness in ("macs", "peaks"):
        return 0.5
    image_s = 0.1 if device.kind == "cpu" else 0.001  # about a ResTv2-T on two cores, on a GPU of 2017
    if job.harness in ANALYSES:
        return 3.0 + 3 * image_s * _images_looked_at(parse(job.case))
    iterations, case = job.rules.warmup_iterations + job.rules.min_samples, parse(job.case)
    image_s *= HEAD_TIMES.get(case.head, 1)
    if case.mode == "train":
        image_s *= 3  # backward has twice the forward's products
    if case.takes_tokens:
        image_s /= 10  # a part of one of eleven blocks
    if job.harness == "compare":  # A B B A
        iterations, cap_s = 4 * iterations, 2 * job.rules.cap_s
    else:
        cap_s = job.rules.cap_s
    return 3.0 + max(cap_s, iterations * image_s * _images_of_224(case) * (case.batch or 1))


def _images_of_224(case: Case) -> float:
    """How many images of 224×224 pixels an iteration's have together; of a mix that cannot be read, none."""
    of = [case.size]
    if case.mix:
        try:
            of = images.representatives(images.read(case.mix.source), case.mix.shapes)
        except ValueError:
            return 0.0
    return sum(height * width for height, width in of) / 224**2


def timing_job(case: Case, harness: str, device: Device, rules: Rules, study: str | None = None) -> Job:
    """A case with its open parts taken from the protocol, else from the device's defaults."""
    return Job(harness, str(resolved(case, device, rules)), rules, study)


def analysis_job(case: Case, harness: str, rules: Rules, study: str | None = None) -> Job:
    """One of ANALYSES of a case: in fp32, in batches of ANALYSIS_BATCH images, where it says nothing else.

    Raises:
        UsageError: no such folder of images or none in it, or an implementation without branches to look at.
    """
    if case.impl not in ("eager", "sdpa") or case.mode != "infer":
        part = case.impl if case.mode == "infer" else case.mode
        raise UsageError(f"branches are looked at in eager or sdpa, and in inference: {case} has {part!r}")
    if case.takes_tokens:
        raise UsageError(f"branches are looked at in a whole model, of which {case} is a part")
    if case.head != "classifier":
        raise UsageError(f"branches are looked at in the classifier: {case} has a head of another kind")
    try:
        _photos(case)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Job(harness, str(case.resolve(ANALYSIS_BATCH, "fp32")), rules, study)


def _photos(case: Case) -> images.Photos | None:
    """Those that the case names; None for synthetic images. Raises ValueError as `images.find`."""
    folder = dict(case.options).get("images")
    return images.find(Path(str(folder))) if folder else None


def _images_looked_at(case: Case) -> int:
    try:
        found = _photos(case)
    except ValueError:
        return 0
    return len(found.files) if found else images.SYNTHETIC


def resolved(case: Case, device: Device, rules: Rules) -> Case:
    """A case that is to be timed, with its open parts filled in.

    Raises:
        UsageError: it names images, on which no time depends.
    """
    if case.has("images"):
        raise UsageError(f"images=FOLDER is for `branches` to look at; a time does not depend on it: {case}")
    batch, dtype = defaults(device)
    if case.mode == "train" and dtype == "fp16" and not case.has("autocast"):  # which takes no fp16 weights
        dtype = "bf16" if _major(device) >= AMPERE else "fp32"
    return case.resolve(rules.batch or batch, rules.dtype or dtype)


def _major(device: Device) -> int:
    """Of the compute capability; 0 where there is none, or nobody says."""
    return int((device.compute_capability or "0").partition(".")[0])


def defaults(device: Device) -> tuple[int, str]:
    """Batch and dtype where neither case nor protocol says: the profile's, one image in fp32 on a CPU."""
    if device.kind == "cpu":
        return 1, "fp32"
    return (device.profile.batch, device.profile.dtype) if device.profile else (64, "fp16")


def counting_job(case: Case, rules: Rules, study: str | None = None) -> Job:
    """A count is the forward's for one image, whatever else is done to how many in which dtype."""
    options = tuple(option for option in case.options if option[0] in case.model_options)
    alone = replace(case, options=options, batch=None, dtype=None, mode="infer")
    return Job("macs", str(alone), rules, study)


def jobs_of(study: Study, device: Device, rules: Rules, *, quick: bool) -> list[Job]:
    """What a study asks for: counts first, because they take no time, then each case, then the comparisons."""
    listed = study.parsed(device.kind, quick)
    if not study.is_timed:
        return [analysis_job(case, study.harness, rules, study.name) for case in listed]
    jobs = [Job("peaks", "cpu", rules)] if device.kind == "cpu" else []
    jobs += [counting_job(case, rules, study.name) for case in study.to_count(device.kind, quick)]
    jobs += [timing_job(case, study.harness, device, rules, study.name) for case in listed]
    for pair in study.pairs(device.kind, quick):
        first, second = (str(resolved(parse(text), device, rules)) for text in pair)
        jobs.append(Job("compare", first, rules, study.name, other=second))
    return jobs


def stamps(job: Job) -> dict[str, Any]:
    """Of the images that a mix or an analysis is of; nothing for other jobs, so that they keep the keys they have."""
    cases = [] if job.harness == "peaks" else [parse(text) for text in (job.case, job.other) if text]
    try:
        if sources := [case.mix.source for case in cases if case.mix]:
            return {"shapes": [sorted(images.shapes(images.read(source)).items()) for source in sources]}
        found = _photos(cases[0]) if job.harness in ANALYSES else None
    except ValueError:  # gone since; the worker says so
        return {}
    return {"images": found.stamp} if found else {}


def own_files(case: Case) -> list[Path]:
    """What of the user's a case depends on: weights, and the package or the file that `module:Class` is in."""
    paths = [Path(str(value)).resolve() for name, value in case.options if name == "weights"]
    if ":" in case.model and not case.model.startswith("timm:"):
        spec = PathFinder.find_spec(case.model.partition(":")[0].partition(".")[0])  # imports nothing
        package = list(spec.submodule_search_locations or []) if spec else []
        paths += map(Path, package or ([spec.origin] if spec and spec.origin else []))
    # what was installed is known by its version, and may be large
    return [path for path in paths if path.exists() and "site-packages" not in path.parts]
