"""The features of EMSAv2's branches, block by block: figures 3 and 4 of the paper, for any model that has branches.

A block has an attention branch ("attn"), an upsample branch ("up") and their sum ("com", equation 2, before the output
projection). An analysis folds their features into sums as they come, so that memory does not grow with the images.

# B images, N = H·W tokens, C channels of a feature map; F frequencies; p = N·C features of an image
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import models
from bench import stats
from bench.cases import Case
from bench.errors import out_of_memory
from bench.harness import inputs
from bench.harness.device import worker_device
from bench.harness.forms import autocast, form, in_form
from bench.harness.inputs import Pictures
from bench.harness.prepare import Say, Spent, precision
from bench.protocols import Rules

WORDS = {"com": "sum of the branches", "attn": "attention branch", "up": "upsample branch"}
PAIRS = (("attn", "com"), ("up", "com"), ("up", "attn"))  # figure 4's

Answer = tuple[dict[str, Any], list[str]]  # a row's result, and its notes
Features = dict[str, Tensor]  # a key of WORDS → (B, N, C)
Fold = Callable[[str, Features, tuple[int, int]], object]  # block, its features, H and W


# ---- figure 3: which frequencies


class Fourier:
    """Log amplitude on the diagonal of the 2-D spectrum, mean over images and channels, less its value at frequency 0.

    The method is Park and Kim's ("How Do Vision Transformers Work?", ICLR 2022), whom the paper follows; the logarithm
    is natural. A map of n by n has the frequencies 0, 2/n, 4/n … up to 1 (n even) or 1-1/n (n odd), in units of π.
    (Theirs leave out the 1 of an even n, and are drawn as if the last that is left were it.) A map that is not square
    has the frequencies of its shorter side; of its longer side the nearest is taken, half a step off at most.
    """

    least = 1  # images
    # A share of the sum of a map's magnitudes, which no amplitude exceeds: an fp32 transform cannot tell it from 0. It
    # scales with the map, so that curves do not depend on the scale of features. A map of zeros counts as flat.
    FLOOR: ClassVar[float] = 1e-6

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._maps: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def add(self, block: str, features: Features, size: tuple[int, int]) -> None:
        """Fold in the features of one batch."""
        sums = self._sums.setdefault(block, {})
        for name, x_BNC in features.items():
            x_BCHW = x_BNC.transpose(1, 2).unflatten(2, size)
            sum_F = log_amplitude(x_BCHW).sum((0, 1), dtype=torch.float64).cpu()
            sums[name] = sums[name] + sum_F if name in sums else sum_F
        self._maps[block] = self._maps.get(block, 0) + x_BCHW.shape[0] * x_BCHW.shape[1]
        self._sizes[block] = size

    def result(self) -> dict[str, Any]:
        """Blocks in their order, the frequencies of each, and its curve by branch."""
        curves: dict[str, list[list[float]]] = {name: [] for name in WORDS}
        for block, sums in self._sums.items():
            for name, sum_F in sums.items():
                mean_F = sum_F / self._maps[block]
                curves[name].append((mean_F - mean_F[0]).tolist())
        return {
            "blocks": list(self._sums),
            "frequencies": [frequencies(self._sizes[block]) for block in self._sums],
            "log_amplitude": curves,
        }


def frequencies(size: tuple[int, int]) -> list[float]:
    """The frequencies on the diagonal of a map's spectrum, in units of π."""
    n = min(size)
    return [2 * i / n for i in range(n // 2 + 1)]


def log_amplitude(x_BCHW: Tensor) -> Tensor:
    """ln of the amplitudes at `frequencies`: (B, C, F), in fp64 for an fp64 map, else in fp32."""
    x_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
    size = x_BCHW.shape[2:]
    n = min(size)
    rows, columns = ([_nearest(i, n, side) for i in range(n // 2 + 1)] for side in size)
    amplitude_BCF = torch.fft.rfft2(x_BCHW)[..., rows, columns].abs()
    floor_BC1 = Fourier.FLOOR * x_BCHW.abs().sum((2, 3))[..., None]
    return (amplitude_BCF + floor_BC1).clamp_min(torch.finfo(x_BCHW.dtype).tiny).log()


def _nearest(i: int, n: int, side: int) -> int:
    """The step of a side of `side` pixels that is nearest to step `i` of `n`, and not beyond the side's last."""
    return min((2 * i * side + n) // (2 * n), side // 2)


# ---- figure 4: how alike


class CKA:
    """Linear CKA of features flattened per image (Kornblith et al. 2019), with unbiased HSIC over minibatches.

    HSIC_1 of Song et al. (2012) is averaged over minibatches before the division, as Nguyen, Raghu and Kornblith
    (2021) do: however the images are divided, it estimates the same. The estimator of the first paper would not: with
    more features than images it is near 1 for features that have nothing in common. An estimate may therefore be a
    little below 0.
    """

    least = 4  # images, of each minibatch: HSIC_1 is a mean over quadruples
    # A share of the mean squared length of an image's features: smaller products are those of rounding errors.
    NOTHING: ClassVar[float] = 1e-12

    def __init__(self) -> None:
        self._sums: dict[str, dict[tuple[str, str], float]] = {}

    def add(self, block: str, features: Features, size: tuple[int, int]) -> None:
        """Fold in the features of one minibatch.

        Raises:
            ValueError: a branch gives the same for each image, so that nothing can be like it or unlike it.
        """
        sums = self._sums.setdefault(block, {})
        centred = {}
        for name, x_BNC in features.items():
            centred[name], length = centred_products(x_BNC)
            if not centred[name].abs().max() > self.NOTHING * length:
                raise ValueError(
                    f"{block}: its {WORDS[name]} is the same for each image, so CKA is not defined"
                )
        for a, b in itertools.combinations_with_replacement(sorted(features), 2):
            sums[a, b] = sums.get((a, b), 0.0) + hsic(centred[a], centred[b])

    def result(self) -> dict[str, Any]:
        """Blocks in their order, and the CKA of each by pair of branches."""
        return {
            "blocks": list(self._sums),
            "cka": {f"{a}_{b}": [_cka(sums, a, b) for sums in self._sums.values()] for a, b in PAIRS},
        }


def _cka(sums: dict[tuple[str, str], float], a: str, b: str) -> float:
    first, second = sorted((a, b))
    return sums[first, second] / (sums[a, a] * sums[b, b]) ** 0.5


def centred_products(x_BNC: Tensor) -> tuple[Tensor, float]:
    """The U-centred Gram matrix of B images, (B, B) in fp64 on the CPU, and the mean squared length of their features.

    U-centred (Székely and Rizzo 2014): off the diagonal it sums to 0 over each row, and it is 0 on the diagonal.
    """
    batch = len(x_BNC)
    gram_BB = torch.zeros(batch, batch, dtype=torch.float64, device=x_BNC.device)
    for part_BNC in x_BNC.split(max(1, 2**22 // (batch * x_BNC.shape[2])), dim=1):  # 32 MiB in fp64
        x_Bp = part_BNC.flatten(1).double()
        gram_BB += x_Bp @ x_Bp.T
    gram_BB = gram_BB.cpu()
    length = gram_BB.diagonal().mean().item()
    gram_BB.fill_diagonal_(0)
    row_B = gram_BB.sum(1) / (batch - 2)
    centred_BB = gram_BB - row_B[:, None] - row_B[None, :] + row_B.sum() / (batch - 1)
    return centred_BB.fill_diagonal_(0), length


def hsic(a_BB: Tensor, b_BB: Tensor) -> float:
    """HSIC_1 of two U-centred Gram matrices of B images, at least 4."""
    batch = len(a_BB)
    return (a_BB * b_BB).sum().item() / (batch * (batch - 3))


# ---- any of them, over a model and images


def analyse(
    model: nn.Module,
    pictures: Pictures,
    analysis: Fourier | CKA,
    *,
    batch: int,
    prepare: Callable[[Tensor], Tensor] = lambda x_BCHW: x_BCHW,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Show images to a model, `batch` at a time, and give what an analysis makes of its branches.

    Args:
        prepare: moves images to where the model is, and to its dtype.

    Raises:
        ValueError: too few images, a file that is no image, a model without branches, or with but one of them.
    """
    if len(pictures) < analysis.least:
        name, least, here = type(analysis).__name__, analysis.least, len(pictures)
        raise ValueError(f"{name} needs {least} images or more, and here is {here}")
    done = 0
    with watched(model, analysis.add):
        for numbers in minibatches(len(pictures), batch):
            say(f"{done} of {len(pictures)} images seen")
            model(prepare(pictures.load(numbers)))
            done += len(numbers)
    return {**analysis.result(), "images": pictures.about()}


def origin(case: Case) -> dict[str, str | None]:
    """The origin of a case's weights, for its row: a file (name and SHA-256), initial, or a user's class."""
    if file := case.option("weights"):
        path = Path(file)
        with path.open("rb") as content:
            return {
                "source": "file",
                "file": path.name,
                "hash": hashlib.file_digest(content, "sha256").hexdigest(),
            }
    return {"source": "module" if case.is_users else "initial", "file": None, "hash": None}


def minibatches(count: int, batch: int) -> list[list[int]]:
    """The numbers below `count` in parts of about `batch`, of more where CKA needs more.

    They are dealt out like cards: neighbours in a folder are often of one class, and a minibatch has to be a sample of
    all.
    """
    parts = max(1, min(-(-count // batch), count // CKA.least))
    return [list(range(part, count, parts)) for part in range(parts)]


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that know their branches, by block: `stage1.0`.

    Raises:
        ValueError: there is none.
    """
    # on the class, because a model may have a submodule of that name
    modules = {
        name.removesuffix(".attn"): module
        for name, module in model.named_modules()
        if callable(getattr(type(module), "branches", None))
    }
    if not modules:
        raise ValueError("it has no attention with an upsample branch; ResT and PVT with EMSAv2 have")
    return modules


@contextmanager
def watched(model: nn.Module, fold: Fold) -> Iterator[None]:
    """Hands the branches of each block to `fold`, in order, at every forward pass while the context lasts.

    Raises:
        ValueError: a block has no such branch, or what it gives is not finite.
    """

    def before(block: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x_BNC, size = arguments
            attn_BNC, up_BNC = module.branches(x_BNC, size)
            for name, branch in (("attn", attn_BNC), ("up", up_BNC)):
                if branch is None:
                    raise ValueError(f"{block} has no {WORDS[name]}, so there are not two to be compared")
            features = {"com": attn_BNC + up_BNC, "attn": attn_BNC, "up": up_BNC}
            tokens = size[0] * size[1]  # the last ones: a class token is in no map
            features = {name: branch[:, -tokens:] for name, branch in features.items()}
            for name, branch in features.items():
                if not branch.isfinite().all():
                    raise ValueError(f"{block}: its {WORDS[name]} is not finite")
            fold(block, features, size)

        return hook

    handles = [module.register_forward_pre_hook(before(block)) for block, module in attentions(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---- the harnesses


def fourier(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Look at which frequencies the branches of each block carry."""
    return _looked_at(cases[0], Fourier(), say, spent)


def cka(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Look at how alike the branches of each block are."""
    result, notes = _looked_at(cases[0], CKA(), say, spent)
    doubt = stats.cka_doubt(result["images"]["used"])
    return result, [*notes, doubt] if doubt else notes


def _looked_at(case: Case, analysis: Fourier | CKA, say: Say, spent: Spent) -> Answer:
    """Build a case's model and analyse its branches. Initial weights are the same in every run."""
    device, into, batch = worker_device(), form(case), case.batch or 1
    pictures = inputs.pictures(case.option("images") or None, case.size)
    say("building")
    with spent.on("build"):
        torch.manual_seed(inputs.SEED)
        model = models.build(case.model, size=case.size, impl=case.impl, **case.model_options)
        model = in_form(case, model, device)
    try:
        with spent.on("forward"), precision(), torch.inference_mode(), autocast(case, device):
            result = analyse(
                model,
                pictures,
                analysis,
                batch=batch,
                prepare=lambda images: images.to(device, **into),
                say=say,
            )
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(f"out of memory with {batch} images at a time: ask for fewer, as :b4 does") from None
    return {**result, "weights": origin(case)}, []
