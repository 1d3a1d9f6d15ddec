"""A case, the one thing to run: `model[options]@size:bN:dtype:impl:mode`, parsed, checked and printed. No torch.

Every part after the model may be left out: `restv2_tiny`, `restv2_tiny[mhim]@384:b64:fp16:sdpa`,
`swin_tiny@800x1344:b1`, `timm:vit_small_patch16_224:compile`, `my_package.nets:Net@224`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from bench.errors import UsageError
from models import switches
from models.config import (
    DEFAULT_SIZE,
    AttentionConfig,
    CoreConfig,
    MLPConfig,
    PeerConfig,
    ResTv2Config,
    StageConfig,
)
from models.switches import IMPLS, LEAST_DETECTED, Option, shapes_in
from models.variants import MODELS, config_of, own_size

DTYPES = ("fp32", "fp16", "bf16", "fp64")
MODES = ("infer", "train")  # a forward, or a step of training
DEFAULT_SHAPES, MAX_SHAPES = 8, 1000  # shapes that stand for the images of a mix
MAX_SIDE, MAX_BATCH = 16384, 65536

# Options of the run rather than of a model: every model has them.
RUN_OPTIONS = {
    "autocast": Option("fp32 weights, the case's dtype through torch.autocast (default: converted weights)"),
    "channels_last": Option("weights and input in channels-last memory order (default: contiguous NCHW)"),
    "cold": Option("caches flushed before each iteration, and its time alone (default: back to back)"),
    "graph": Option("inference replayed from a CUDA graph, so that no launch is waited for"),
    "sdpa": Option(
        "the one kernel that scaled_dot_product_attention may take (default: PyTorch chooses)",
        values={name: {} for name in ("flash", "efficient", "cudnn", "math")},
    ),
    "images": Option("images for `branches` to look at (default: synthetic ones)", takes="FOLDER"),
}


class Rule(NamedTuple):
    """A case that cannot be run: how it is recognised, and the line that says why.

    The line is a format string over `case`, `text` (the case as it was written) and `instead` (the case under
    autocast).
    """

    breaks: Callable[[Case], bool]
    why: str


# What cannot be run, by purpose; the first rule that a case breaks is the one that is told. What cannot be built is
# the models' to say.
RULES: dict[str, tuple[Rule, ...]] = {
    "run": (
        Rule(
            lambda case: case.is_users and case.impl == "sdpa",
            "{case.model} brings its own attention, so it cannot be run as 'sdpa', in {text!r}",
        ),
        Rule(
            lambda case: case.has("autocast") and case.dtype not in (None, "fp16", "bf16"),
            "autocast is for fp16 and bf16, not {case.dtype}, in {text!r}",
        ),
        Rule(
            lambda case: case.has("sdpa") and case.impl != "sdpa",
            "sdpa=… says how the implementation 'sdpa' runs, and this is another, in {text!r}",
        ),
        Rule(
            lambda case: case.has("graph") and case.mode == "train",
            "a graph replays an inference, and this is a step of training, in {text!r}",
        ),
        Rule(
            lambda case: bool(case.mix) and case.has("graph"),
            "a graph replays one shape, and a mix has many, in {text!r}",
        ),
        Rule(
            lambda case: bool(case.mix) and case.mode == "train",
            "a step of training takes images of one size, in {text!r}",
        ),
        Rule(
            lambda case: bool(case.mix) and getattr(MODELS.get(case.model), "takes_size", False),
            "this model is built for one size, and takes no mix, in {text!r}",
        ),
        Rule(
            lambda case: bool(case.mix) and case.has("inputs"),
            "a mix is of images, and inputs=… says other shapes, in {text!r}",
        ),
        Rule(
            lambda case: bool(case.mix) and case.takes_tokens,
            "a part of a model is made for one size, and takes no mix, in {text!r}",
        ),
        Rule(
            lambda case: case.head != "classifier" and case.mode == "train",
            "a step of training under a head needs boxes or masks to learn from, and there are none here, in {text!r}",
        ),
        Rule(
            lambda case: case.head == "mask_rcnn" and case.has("graph"),
            "a graph replays the same kernels, and Mask R-CNN chooses boxes by their values, in {text!r}",
        ),
        Rule(
            lambda case: case.head == "mask_rcnn" and not case.mix and min(case.size) < LEAST_DETECTED,
            f"Mask R-CNN takes {LEAST_DETECTED} pixels a side or more, in {{text!r}}",
        ),
        Rule(
            lambda case: case.takes_tokens and case.mode == "train",
            "a part of a model is not trained alone, in {text!r}",
        ),
        Rule(
            lambda case: case.takes_tokens and case.has("channels_last"),
            "channels_last is an order of images, and a part of a model takes tokens, in {text!r}",
        ),
        # not for want of precision alone: AdamW's mean squares underflow to zeros, and it divides by their roots
        Rule(
            lambda case: case.mode == "train" and case.dtype == "fp16" and not case.has("autocast"),
            "no training with fp16 weights, in {text!r}: write {instead}, or bf16 instead of fp16",
        ),
    ),
    "time": (
        Rule(
            lambda case: case.has("images"),
            "images=FOLDER is for `branches` to look at; a time does not depend on it: {case}",
        ),
    ),
    "profile": (
        Rule(
            lambda case: case.has("cold"),
            "a profile is of iterations back to back, without flushes between them: {case}",
        ),
    ),
    "trace": (
        Rule(lambda case: bool(case.mix), "--check cannot trace a mix of sizes: {case}"),
        Rule(
            lambda case: case.head == "mask_rcnn",
            "--check cannot trace Mask R-CNN, which chooses boxes by their values: {case}",
        ),
    ),
    "compare": (
        Rule(
            lambda case: case.has("cold"),
            "a comparison is of iterations back to back: measure cold ones one by one",
        ),
    ),
    "analyse": (
        Rule(lambda case: bool(case.mix), "images are looked at in one size, not in a mix: {case}"),
        Rule(
            lambda case: case.mode != "infer",
            "branches are looked at in eager or sdpa, and in inference: {case} has {case.mode!r}",
        ),
        Rule(
            lambda case: case.impl not in ("eager", "sdpa"),
            "branches are looked at in eager or sdpa, and in inference: {case} has {case.impl!r}",
        ),
        Rule(
            lambda case: case.takes_tokens,
            "branches are looked at in a whole model, of which {case} is a part",
        ),
        Rule(
            lambda case: case.head != "classifier",
            "branches are looked at in the classifier: {case} has a head of another kind",
        ),
    ),
}

# A model goes by the paper's name for it, too.
_TITLES = {config.title.casefold(): name for name, config in MODELS.items()}
_CASE = re.compile(r"(?P<head>[^\[@]+)(?:\[(?P<options>[^\]]*)\])?(?:@(?P<size>[^:]*))?(?P<rest>(?::.*)?)")
_BATCH = re.compile(r"b([0-9]+)")
_SIZE = re.compile(r"([0-9]+)(?:x([0-9]+))?")
_MIX = re.compile(r"(coco[0-9]*|.*/.*?|.*?\.json)(?:~([0-9]+))?")
_TIMM = re.compile(r"timm:[\w.-]+")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Mix:
    """Sizes of real images, resized as for a detector, and how many shapes are run in place of all of them."""

    source: str  # coco, cocoN (its first N images), an annotation file, or a folder of images
    shapes: int = DEFAULT_SHAPES

    def __str__(self) -> str:
        return f"{self.source}~{self.shapes}"


class AttentionPart(NamedTuple):
    """The block whose attention a case runs alone, and what of the attention."""

    of: ResTv2Config
    stage: int  # 1 to 4
    style: str  # global | win
    part: str  # all | copies | inside


@dataclass(frozen=True)
class Case:
    """One thing to run. `batch` and `dtype` are None until `resolve` fills in the machine's defaults.

    Its views are made once: reports ask a case the same thing thousands of times.
    """

    model: str
    options: tuple[tuple[str, str | bool], ...] = ()
    size: tuple[int, int] = DEFAULT_SIZE  # height, width
    batch: int | None = None
    dtype: str | None = None
    impl: str = "eager"
    mode: str = "infer"
    mix: Mix | None = None  # instead of the one size

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        options = ",".join(name if value is True else f"{name}={value}" for name, value in self.options)
        parts = [
            f"{self.model}{f'[{options}]' if options else ''}@{self.shape}",
            f"b{self.batch}" if self.batch else "",
            self.dtype or "",
            self.impl,
            self.mode if self.mode != "infer" else "",
        ]
        return ":".join(part for part in parts if part)

    @property
    def shape(self) -> str:
        """Size or mix, as the case's text has it."""
        return str(self.mix or format_size(self.size))

    # ---- options

    def has(self, option: str) -> bool:
        """Whether the option is among the case's."""
        return any(name == option for name, _ in self.options)

    def option(self, name: str, default: str = "") -> str:
        """An option's value as text, `default` where the case does not have it; of a flag "True"."""
        return str(dict(self.options).get(name, default))

    @cached_property
    def model_options(self) -> dict[str, Any]:
        """The options that `models.build` takes; not to be changed."""
        return {name: value for name, value in self.options if name not in RUN_OPTIONS}

    @property
    def head(self) -> str:
        """The head on the backbone: `classifier` unless the case says otherwise."""
        return self.option("head", "classifier")

    # ---- the same case, more or less open

    def resolve(self, batch: int, dtype: str) -> Case:
        """The same case with its open parts filled in."""
        return replace(self, batch=self.batch or batch, dtype=self.dtype or dtype)

    @cached_property
    def left_open(self) -> Case:
        """The same case with batch and dtype open again."""
        return replace(self, batch=None, dtype=None)

    @cached_property
    def without_run(self) -> Case:
        """Model, its options, and size or mix: the case without what says how it is run."""
        return Case(self.model, tuple(self.model_options.items()), self.size, mix=self.mix)

    # ---- what the case is the same as

    @cached_property
    def mathematics(self) -> tuple[Any, ...]:
        """A key of everything that a count depends on: model, its options, and size or the images of a mix."""
        images = self.mix.source if self.mix else self.size
        return self.model, tuple(sorted(self.model_options.items())), images

    @cached_property
    def paper_name(self) -> str:
        """The name by which the paper's CSV files call the case: model, its options and size, not how it is run.

        A mix goes by its images alone: how many shapes are timed in place of them depends on the device.
        """
        plain = self.without_run
        if plain.mix:
            plain = replace(plain, mix=Mix(plain.mix.source))
        return str(plain).removesuffix(f":{plain.impl}")

    # ---- what the case runs

    @property
    def is_users(self) -> bool:
        """Whether the model is a user's own class, `module:Class`."""
        return ":" in self.model and not self.model.startswith("timm:")

    @property
    def is_timms(self) -> bool:
        """Whether the model is built by timm."""
        return self.model.startswith("timm:") or isinstance(MODELS.get(self.model), PeerConfig)

    @property
    def core(self) -> tuple[str, str] | None:
        """Printed name of the model, and the stage, whose EMSAv2 core runs alone; None for any other case."""
        config = MODELS.get(self.model)
        if not isinstance(config, CoreConfig):
            return None
        return config.of.title, self.option("stage", "1")

    @property
    def mlp(self) -> tuple[str, str] | None:
        """Printed name of the model, and the stage, whose feed-forward runs alone; None for any other case."""
        config = MODELS.get(self.model)
        if not isinstance(config, MLPConfig):
            return None
        return config.of.title, self.option("stage", "1")

    @property
    def attention(self) -> AttentionPart | None:
        """The block whose attention runs alone, and what of the attention; None for any other case."""
        config = MODELS.get(self.model)
        if not isinstance(config, AttentionConfig):
            return None
        return AttentionPart(
            config.of,
            int(self.option("stage", "1")),
            self.option("style", "global"),
            self.option("part", "all"),
        )

    @property
    def windowed(self) -> bool:
        """Whether something in the model attends inside windows."""
        return self.option("style", "global") != "global"

    @property
    def takes_tokens(self) -> bool:
        """Whether it is a part of a model, called with a stage's tokens instead of an image."""
        return isinstance(MODELS.get(self.model), StageConfig)

    @cached_property
    def title(self) -> str:
        """The model's printed name with the case's options: `ResTv2-T [mhim]`."""
        name = MODELS[self.model].title if self.model in MODELS else self.model
        options = ", ".join(key if value is True else f"{key}={value}" for key, value in self.options)
        return f"{name} [{options}]" if options else name

    @property
    def family(self) -> str:
        """The model's family, `other` for a model without a name here."""
        return MODELS[self.model].family if self.model in MODELS else "other"


def format_size(size: tuple[int, int]) -> str:
    """Height and width as a case writes them: `224`, `800x1344`."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def check(case: Case, purpose: str, text: str = "") -> None:
    """Hold a case to the rules of a purpose: a key of RULES.

    Args:
        text: the case as somebody wrote it, for the error's line; default: as it prints.

    Raises:
        UsageError: the case breaks one; the line says which and why.
    """
    if rule := breaks(case, purpose):
        options = tuple(sorted((*case.options, ("autocast", True))))
        instead = replace(case, options=options)
        raise UsageError(rule.why.format(case=case, text=text or str(case), instead=instead))


def breaks(case: Case, purpose: str) -> Rule | None:
    """The first rule of a purpose that a case breaks; None if it keeps them all."""
    return next((rule for rule in RULES[purpose] if rule.breaks(case)), None)


def parse(text: str) -> Case:
    """Read a case from its text.

    Raises:
        UsageError: names the part that is wrong, what is allowed there, and the nearest name if one is near.
    """
    match = _CASE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"not a case: {text!r}; write model[options]@size:bN:dtype:impl:mode")
    head, fields = match["head"], match["rest"].split(":")[1:]
    if (
        match["options"] is None and match["size"] is None
    ):  # the model's own colons are still among the fields
        head, *fields = _split_model(head.split(":"), text)
    elif fields and "" in fields:
        raise UsageError(f"an empty part in {text!r}")
    model = _check_model(head, text)
    parts: dict[str, Any] = {}
    for field in fields:
        name, value = _parse_field(field, text)
        if name in parts:
            raise UsageError(f"two values for the {name} in {text!r}")
        parts[name] = value
    parts["options"] = _parse_options(model, match["options"], text)
    if mix := _parse_mix(match["size"], text):
        parts |= {"mix": mix, "size": own_size(model)}
    else:
        parts["size"] = _parse_size(match["size"], model, parts["options"], text)
    return _check_whole(Case(model, **parts), text)


@cache
def parsed(text: str) -> Case:
    """The case of a text, which is parsed once however often it is asked for: a report meets it in many rows."""
    return parse(text)


def _split_model(parts: list[str], text: str) -> list[str]:
    """The model, then the fields: `timm:NAME` and `module:Class` keep their first colon."""
    if "" in parts:
        raise UsageError(f"an empty part in {text!r}")
    first, *rest = parts
    own = first == "timm" or (first not in MODELS and rest and not _is_field(rest[0]))
    return [f"{first}:{rest[0]}", *rest[1:]] if own and rest else parts


def _is_field(part: str) -> bool:
    return part in (*DTYPES, *IMPLS, *MODES) or bool(_BATCH.fullmatch(part))


def _check_model(name: str, text: str) -> str:
    if name in MODELS or _TIMM.fullmatch(name) or _CLASS.fullmatch(name):
        stem = name.partition(":")[0]
        if stem in MODELS and name != stem:
            raise UsageError(
                f"options and size stand right after the model: {stem}[...]@..., not as in {text!r}"
            )
        if name in MODELS or stem == "timm" or "." in stem or not _near(stem, MODELS):
            return name
        if PathFinder.find_spec(
            stem
        ):  # a user's module whose name happens to be like a model's; imports nothing
            return name
        name = stem
    if titled := _TITLES.get(name.casefold()):
        return titled
    # the nearest of ours may be nothing like it: `resnet18` is timm's
    of_timm = f"timm:{name}" if re.fullmatch(r"[a-z]\w*[0-9]\w*", name, re.ASCII) else "timm:NAME"
    raise unknown("model", name, MODELS, f"in {text!r}; also {of_timm} and module:Class")


def _parse_options(model: str, written: str | None, text: str) -> tuple[tuple[str, str | bool], ...]:
    allowed = {**config_of(model).options, **RUN_OPTIONS}
    options: dict[str, str | bool] = {}
    for part in written.split(",") if written is not None else []:
        name, equals, value = part.strip().partition("=")
        if name not in allowed:
            raise unknown("option", name, allowed, f"of {model} in {text!r}")
        option = allowed[name]
        if option.is_flag == bool(equals) or (equals and not value):
            form = name if option.is_flag else f"{name}={option.takes or '|'.join(option.values)}"
            raise UsageError(f"option {name!r} is written {form}, not {part.strip()!r}, in {text!r}")
        if name in options:
            raise UsageError(f"option {name!r} stands twice in {text!r}")
        if option.values and value not in option.values:
            raise unknown("value", value, option.values, f"of {name} in {text!r}")
        options[name] = value if equals else True
    return tuple(sorted(options.items()))


def _parse_mix(written: str | None, text: str) -> Mix | None:
    """The mix in a size's place: `coco`, `cocoN`, or a file or folder, which a slash or `.json` tells from a size."""
    match = _MIX.fullmatch(written or "")
    if not match:
        return None
    shapes = _number(match[2]) if match[2] else DEFAULT_SHAPES
    if not 1 <= shapes <= MAX_SHAPES:
        raise UsageError(f"{match[2]} shapes in {text!r} are not between 1 and {MAX_SHAPES}")
    return Mix(match[1], shapes)


def _parse_size(
    written: str | None, model: str, options: tuple[tuple[str, str | bool], ...], text: str
) -> tuple[int, int]:
    if written is None:  # an image of another size among the inputs gives the case its own
        shapes = shapes_in(str(dict(options).get("inputs", ""))) or ()
        image = next((shape[-2:] for shape in shapes if len(shape) > 2 and max(shape[-2:]) <= MAX_SIDE), None)
        return (image[0], image[1]) if image else own_size(model)
    match = _SIZE.fullmatch(written)
    if not match:
        raise UsageError(
            f"size {written!r} in {text!r} is neither N nor HEIGHTxWIDTH, nor coco, FILE.json or FOLDER/"
        )
    height = _number(match[1])
    size = height, _number(match[2]) if match[2] else height
    least = MODELS[model].min_size if model in MODELS else 1
    if min(size) < least or max(size) > MAX_SIDE:
        raise UsageError(f"size {written} in {text!r}: {model} takes {least} to {MAX_SIDE} pixels a side")
    return size


def _parse_field(field: str, text: str) -> tuple[str, str | int]:
    if match := _BATCH.fullmatch(field):
        batch = _number(match[1])
        if not 1 <= batch <= MAX_BATCH:
            raise UsageError(f"batch {match[1]} in {text!r} is not between 1 and {MAX_BATCH}")
        return "batch", batch
    for name, values in (("dtype", DTYPES), ("impl", IMPLS), ("mode", MODES)):
        if field in values:
            return name, field
    raise unknown("part", field, (*DTYPES, *IMPLS, *MODES, "bN"), f"in {text!r}")


def _number(digits: str) -> int:
    """The value of digits, cut to the first nine: more than any limit has, and int() refuses 4300."""
    return int(digits.lstrip("0")[:9] or 0)


def _check_whole(case: Case, text: str) -> Case:
    try:
        switches.check(config_of(case.model), case.impl, case.model_options)
    except ValueError as error:
        raise UsageError(f"{error}, in {text!r}") from None
    check(case, "run", text)
    return case


def _near(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for an unknown name, in the one wording, with the nearest known one."""
    near = _near(name, known)
    hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(known)}"
    return UsageError(" ".join(part for part in (f"unknown {kind} {name!r}", where) if part) + f"; {hint}")
