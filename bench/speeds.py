"""Speeds that somebody measured, as rows of the cost model: timm's CSV files, the paper's tables, one's own. No torch.

A campaign is what one pair of rates is fitted to: rows of one device, dtype, memory layout and way of running.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import csv_file, record, traffic, visits
from bench.cases import Case, parsed
from bench.costmodel import Timed, Work
from bench.counted import counted
from bench.errors import Failure, UsageError
from bench.record import Row
from bench.stats import TOO_WIDE, Estimate
from models.switches import COMPILED

DTYPES = {"amp": "fp16", "float16": "fp16", "float32": "fp32", "bfloat16": "bf16"}  # timm's words for ours
MODES = ("infer", "train")
KNOWN_DTYPES = tuple(traffic.BYTES_OF)
MOST, MOST_S = 1e9, 1e6  # a speed, batch or size, and seconds an image, from which on it is none
WITHOUT = "without an interval"  # why a row is left out
PAPER_SETTING = ("v100", "fp32", 64)  # of the speeds that the paper prints (section 4.1)


@dataclass
class Campaign:
    """Rows to be fitted together, and those that could not be used, each with its reason."""

    device: str  # a profile's name where the device has one
    dtype: str
    way: str = "eager"  # or compile
    about: str = ""  # what else tells it apart: layout, versions
    source: str = ""
    is_autocast: bool = False
    rows: list[Timed] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)  # the name of a row, and why

    @property
    def is_compiled(self) -> bool:
        """Whether a compiler fused its operators."""
        return self.way == "compile"

    @property
    def doubts(self) -> str:
        """How many rows there are from which alone nothing can be concluded, and why, in words; empty without such."""
        counts = Counter(doubt for row in self.rows for doubt in row.doubts)
        return ", ".join(f"{count} {doubt}" for doubt, count in counts.most_common())

    @property
    def name(self) -> str:
        """A name in a few words: the device, the dtype, the way and what else it is about."""
        return ", ".join(filter(None, (self.device, self.dtype, self.way, self.about)))


def read(path: Path) -> list[Campaign]:
    """The campaigns of a CSV file, or of the results in a folder.

    Raises:
        UsageError: there is no such file, or nothing in it that is known to be a speed.
    """
    if path.is_dir() or (not path.exists() and not path.suffix):
        return of_folders(path)
    columns, found = csv_file.read(path)
    # which value is whose is not known where there are too many
    lines = [{"model": line.values.get("model", "")} if line.more else line.values for line in found]
    if "metric" in columns and "case" in columns:
        return of_paper(lines, path.name)
    if "model" in columns and any(name.endswith("samples_per_sec") for name in columns):
        return of_timm(lines, path.name)
    raise UsageError(
        f"{path}: no speeds in it: a file of timm's has columns model and infer_samples_per_sec, "
        "one of the paper's case and metric"
    )


# ---- timm's benchmark-*.csv


def of_timm(lines: Iterable[Mapping[str, str]], file: str) -> list[Campaign]:
    """The campaigns of a table as timm publishes it; what its columns do not say, the words of its name do.

    A table of both inference and training, whose columns begin so, has a campaign of each.
    """
    said = _of_name(file)
    found: dict[tuple[str, ...], Campaign] = {}
    for line in lines:
        modes = [mode for mode in MODES if f"{mode}_samples_per_sec" in line]
        for mode in modes or [""]:
            others = tuple(f"{other}_" for other in modes if other != mode)
            plain = {
                name.removeprefix(f"{mode}_"): value
                for name, value in line.items()
                if not (others and name.startswith(others))
            }
            if len(modes) > 1 and not plain["samples_per_sec"]:
                continue
            stated = {name: value for name, value in plain.items() if name in said and value}
            about = {**said, **({"mode": mode} if mode else {}), **stated}
            key = tuple(about.values())
            if key not in found:
                found[key] = _campaign(about, plain.get("source") or file)
            _take(found[key], plain)
    return list(found.values())


def _of_name(file: str) -> dict[str, str]:
    """The values, by column, in a name like `benchmark-infer-amp-nchw-pt240-cu124-rtx4090-dynamo.csv`."""
    words = file.removesuffix(".gz").removesuffix(".csv").split("-")
    said = {
        "mode": "infer",
        "precision": "fp32",
        "layout": "",
        "torch": "",
        "device": "unknown",
        "dynamo": "",
    }
    for word in words[1:] if words[0] == "benchmark" else []:
        if word in MODES:
            said["mode"] = word
        elif word in DTYPES or word in KNOWN_DTYPES:
            said["precision"] = word
        elif word in ("nchw", "nhwc"):
            said["layout"] = word
        elif word.startswith("pt") and word[2:].isdigit():
            said["torch"] = word[2:]
        elif word in ("dynamo", "compile"):
            said["dynamo"] = "True"
        elif not word.startswith("cu"):
            said["device"] = word
    return said


def _campaign(about: Mapping[str, str], source: str) -> Campaign:
    torch = about["torch"]
    details = [
        f"{about['precision']}" if about["precision"] == "amp" else "",
        about["layout"],
        f"torch {torch[0]}.{torch[1:-1]}" if len(torch) > 2 and torch.isdigit() else torch,
        "training" if about["mode"] == "train" else "",
    ]
    dtype = DTYPES.get(about["precision"], about["precision"])
    if dtype not in KNOWN_DTYPES:
        raise UsageError(f"{source}: precision {dtype!r} is none of {', '.join((*KNOWN_DTYPES, *DTYPES))}")
    way = "compile" if about["dynamo"].lower() in ("true", "1") else "eager"
    is_autocast = about["precision"] == "amp"
    return Campaign(about["device"], dtype, way, " ".join(filter(None, details)), source, is_autocast)


def _take(campaign: Campaign, line: Mapping[str, str]) -> None:
    """Add a line of timm's to its campaign, or to what of it was left out."""
    name = line.get("model") or ""
    try:
        rate, batch, size = (
            float(line[column] or "nan") for column in ("samples_per_sec", "batch_size", "img_size")
        )
        if not (0 < 1 / rate < MOST_S and rate < MOST and 1 <= batch < MOST and 1 <= size < MOST):
            raise ValueError
        count = counted().get(f"timm:{name}@{size:.0f}")
    except (KeyError, ValueError, ArithmeticError):
        campaign.left.append((name, "no speed, batch or size"))
        return
    if count is None:
        campaign.left.append((f"{name}@{size:.0f}", "not in counted.csv"))
        return
    work = count.work(
        campaign.dtype, int(batch), is_compiled=campaign.is_compiled, is_autocast=campaign.is_autocast
    )
    campaign.rows.append(Timed(f"{name}@{size:.0f}", count.family, work, 1 / rate))


# ---- the paper's tables


def of_paper(lines: Iterable[Mapping[str, str]], file: str) -> list[Campaign]:
    """The speeds that the paper prints for a V100, by the format of reports/paper/*.csv.

    Raises:
        UsageError: it prints none.
    """
    device, dtype, batch = PAPER_SETTING
    table = re.sub(r"table(\d+)\.csv", r"Table \1", file)
    campaign = Campaign(device, dtype, source=f"the paper's {table}, printed")
    for line in lines:
        if line["metric"] != "throughput":
            continue
        count = counted().get(line["case"])
        if count is None:
            campaign.left.append((line["case"], "not in counted.csv"))
            continue
        try:
            rate = float(line["value"])
        except (KeyError, TypeError, ValueError):
            rate = math.nan
        if not 0 < rate < math.inf:
            campaign.left.append((line["case"], "no speed"))
            continue
        campaign.rows.append(Timed(line["case"], count.family, count.work(dtype, batch), 1 / rate))
    if not campaign.rows and not campaign.left:
        raise UsageError(f"{file}: prints no throughput")
    return [campaign]


# ---- one's own results


def of_folders(root: Path, *, required: bool = True) -> list[Campaign]:
    """The campaigns of every device under a folder of results, or of the one device whose rows lie in it.

    Raises:
        Failure: there are no rows, and some are required.
    """
    folders = sorted({path.parent for path in (*root.glob("*.jsonl"), *root.glob("*/*.jsonl"))})
    campaigns = [campaign for folder in folders for campaign in of_rows(record.read(folder).rows)]
    if required and not campaigns:
        raise Failure(f"no throughput in {root}/; `make bench` or `python -m bench run` measures some")
    return campaigns


def of_rows(rows: list[Row]) -> list[Campaign]:
    """The campaigns of result rows, a row a visit; one whose case is known no more is passed over."""
    joined = [visits.join(group) for group in visits.groups([row for row in rows if _is_usable(row)])]
    return of_joined(joined)


def _is_usable(row: Row) -> bool:
    """Whether a row, which other hands may have written, has what a speed is made of, of a case that is known still."""
    if row["harness"] not in ("throughput", "macs"):
        return False
    try:
        parsed(row["case"])  # a model may have another name since
        if row["outcome"] == "ok":
            if record.damage(row["harness"], row.get("result")):
                return False
            if row["harness"] == "macs":
                work_of(row["result"], "fp32", 1)
            else:
                visits.join([row])
                visits.seconds(row)
        visit, group = row.get("visit"), row.get("group")
        return isinstance(visit, int | None) and isinstance(group, str | None)
    except (UsageError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return False


def taken(rows: Iterable[Row]) -> list[tuple[Row, Estimate]]:
    """The rows of throughput that stand for their cases, with the seconds of an iteration.

    Of each case the newest with an interval over visits; else the newest of one visit, a quick look only where there
    is nothing else; else the newest of all.
    """
    timed = [
        (row, visits.seconds(row))
        for row in rows
        if row["harness"] == "throughput" and row["outcome"] == "ok"
    ]

    def worth(pair: tuple[Row, Estimate]) -> tuple[bool, ...]:
        row, seconds = pair
        is_quick = (row.get("protocol") or {}).get("name") == "quick"
        return seconds.low is not None, not seconds.within_run, not is_quick

    timed.sort(key=worth)
    by_case = {
        (str((row.get("device") or {}).get("key")), row["case"]): (row, seconds) for row, seconds in timed
    }
    return list(by_case.values())


def of_joined(rows: list[Row]) -> list[Campaign]:
    """The throughputs of rows that stand for all of their visits, each with its count, else that of counted.csv."""
    counts = {
        _as_run(parsed(row["case"])): row["result"]
        for row in rows
        if row["harness"] == "macs" and row["outcome"] == "ok"
    }
    found: dict[tuple[str, str, str], Campaign] = {}
    for row, seconds in taken(rows):
        case = parsed(row["case"])
        if case.mode != "infer" or case.mix:
            continue
        name = str(case)
        way = "compile" if case.impl in COMPILED else "eager"
        device = str((row.get("device") or {}).get("key"))
        key = device, case.dtype or "fp32", way
        campaign = found.setdefault(key, Campaign(*key, source="results"))
        batch = int(row["result"]["batch"])
        if seconds.low is None:
            campaign.left.append((name, WITHOUT))
            continue
        work = work_of(counts.get(_as_run(case), {}), key[1], batch)
        line = counted().get(case.paper_name)
        if work is None and line and case.impl in ("eager", "compile"):
            work = line.work(key[1], batch, is_compiled=campaign.is_compiled)
        if work is None:
            campaign.left.append((name, "its bytes were not counted"))
            continue
        campaign.rows.append(
            Timed(name, family_of(case), work, seconds.value / batch, tuple(_doubts(row, seconds)))
        )
    return list(found.values())


def _doubts(row: Row, seconds: Estimate) -> Iterator[str]:
    """The reasons why nothing can be concluded from a row alone."""
    if seconds.within_run:
        yield "of one visit"
    if seconds.is_wide:
        yield f"with an interval wider than ± {100 * TOO_WIDE:.0f} %"
    if visits.is_launch_bound(row):
        yield "launch-bound"


def _as_run(case: Case) -> tuple[Case, str]:
    """A key of everything that bytes depend on, for one image: what is computed, and by which implementation."""
    return case.without_run, case.impl


def work_of(result: Mapping[str, Any], dtype: str, batch: int) -> Work | None:
    """The work of an image by the result of a `macs` row; None where that has no bytes."""
    parts = traffic.of_row(result.get("traffic"))
    if not parts:
        return None
    moved = traffic.total(parts.values())
    core = result["conventions"]["core"]
    return Work(
        core["macs"],
        moved.bytes(dtype, batch) / batch,
        moved.launches / batch,
        core["by_operator"].get("conv", 0),
        calls=1 / batch,
    )


def family_of(case: Case) -> str:
    """The family that a case is left out with: a model of timm's by timm's module, or by the letters of its name."""
    if case.family != "other":
        return case.family
    line = counted().get(case.paper_name)
    name = case.model.removeprefix("timm:")
    return line.family if line else name.split(".")[0].split("_")[0].rstrip("0123456789")


def every(campaigns: Iterable[Campaign]) -> Iterator[Timed]:
    """The rows of several campaigns."""
    return (row for campaign in campaigns for row in campaign.rows)
