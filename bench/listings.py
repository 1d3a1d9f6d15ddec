"""The choices there are: studies, models and GPUs, each as data for JSON and as lines for people. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.cases import RUN_OPTIONS
from bench.jobs import Job
from bench.machine import gpus
from bench.machine.devices import Listing, as_dict, cpu_device
from bench.studies import DEFAULT, STUDIES
from models.switches import TIMM_OPTIONS, USERS_OPTIONS
from models.variants import MODELS, implementations


def studies_lines() -> Iterator[str]:
    """Two lines a study: its question, and how many cases it has."""
    for study in STUDIES.values():
        default = "  (what `run` does by default)" if study.name in DEFAULT else ""
        on_gpu, on_cpu = (len(study.parsed(kind, False)) for kind in ("cuda", "cpu"))
        yield f"{study.name:10}{study.question}{default}"
        yield f"{'':10}{on_gpu} cases on a GPU, {on_cpu} on a CPU"


def models_data() -> dict[str, Any]:
    """Title, family, options and implementations of each model."""
    return {
        name: {
            "title": config.title,
            "family": config.family,
            "options": {
                option: {"help": choice.help, "values": list(choice.values)}
                for option, choice in config.options.items()
            },
            "implementations": implementations(config),
        }
        for name, config in MODELS.items()
    }


def models_lines() -> Iterator[str]:
    """A line a model, then the options of each family, and those of every model."""
    rows = [
        (name, config.title, ", ".join(implementations(config)), ", ".join(config.options))
        for name, config in MODELS.items()
    ]
    rows.append(
        ("timm:NAME", "", "eager, sdpa, compile, auto", "any other model of timm's, with a tag or without")
    )
    rows.append(
        ("module:Class", "", "eager, compile, auto", "your own torch.nn.Module, made without arguments")
    )
    yield from _columns(rows)
    tables = {f"Options of {config.family}": config.options for config in MODELS.values() if config.options}
    tables |= {"Options of timm:NAME": TIMM_OPTIONS, "Options of module:Class": USERS_OPTIONS}
    for title, options in {**tables, "Options of every model": RUN_OPTIONS}.items():
        yield f"{title}:"
        for name, option in options.items():
            form = name if option.is_flag else f"{name}={option.takes or '|'.join(option.values)}"
            yield f"  {form}"
            yield f"      {option.help}"


def gpus_data(here: Listing) -> dict[str, Any]:
    """The GPUs that have a profile, and the devices of this machine."""
    return {
        "known": {name: {"title": profile.title} for name, profile in gpus.profiles().items()},
        "here": [as_dict(device) for device in here.devices],
        "reason": here.reason,
    }


def gpus_lines(here: Listing) -> Iterator[str]:
    """A line a profile, then a line a device of this machine."""
    yield from _columns([(name, profile.title) for name, profile in gpus.profiles().items()])
    for device in here.devices:
        yield f"here: {device}, as {device.key}"
    for device, why in here.unusable:
        yield f"here, but not to be measured: {device}: {why}"
    if here.reason:
        yield f"no GPU here: {here.reason}; there is the CPU: {cpu_device()}"


def jobs_lines(expected: Sequence[tuple[Job, float]]) -> Iterator[str]:
    """A line a row to be measured, with the seconds that it may take, and the sum of them."""
    rows = [(job.harness, job.text, f"{seconds:.0f} s") for job, seconds in expected]
    total = sum(seconds for _, seconds in expected)
    yield from _columns(
        [*rows, (f"{len(rows)} rows", "", f"about {total / 60:.0f} min, less what is there already")]
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, each column two blanks apart from the longest text of the one before."""
    widths = [max(map(len, texts)) for texts in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
