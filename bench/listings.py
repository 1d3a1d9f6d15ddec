"""The choices there are: studies, models and GPUs, each as data for JSON and as lines for people. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.cases import RUN_OPTIONS
from bench.machine import gpus
from bench.machine.devices import Listing, as_dict, cpu_device
from bench.studies import DEFAULT, STUDIES
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
    for name, config in MODELS.items():
        impls = ", ".join(implementations(config))
        yield f"{name:16}{config.title:14}{impls:50}{', '.join(config.options)}".rstrip()
    yield f"{'timm:NAME':30}{'eager, sdpa, compile, auto':50}any other model of timm's"
    yield f"{'module:Class':30}{'eager, compile, auto':50}your own torch.nn.Module, made without arguments"
    tables = {f"Options of {config.family}": config.options for config in MODELS.values() if config.options}
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
    for name, profile in gpus.profiles().items():
        yield f"{name:10}{profile.title}"
    for device in here.devices:
        yield f"here: {device}, as {device.key}"
    for device, why in here.unusable:
        yield f"here, but not to be measured: {device}: {why}"
    if here.reason:
        yield f"no GPU here: {here.reason}; there is the CPU: {cpu_device()}"
