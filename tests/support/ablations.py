"""Small models of every ablation, and what holds them against formulas, loops and finite differences."""

import math
from dataclasses import replace
from itertools import product

import torch
from torch.func import functional_call

from models.switches import RESTV2_OPTIONS
from models.variants import PVT, RESTV1, RESTV2
from models.windows import windows_of

# ResTv2-T with a sixth of its channels.
SMALL = replace(RESTV2["restv2_tiny"], width=16)
SMALL_V1 = replace(RESTV1["restv1_lite"], width=16)
SMALL_PVT = replace(PVT["pvt_tiny"], dims=(8, 16, 20, 32), heads=(1, 2, 5, 8), mlp_ratios=(2, 2, 2, 2))
SHALLOW = (1, 1, 1, 1)  # a block a stage
WINDOW = 4


def combinations(options):
    """Every choice of values, flags and absences of `options`, apart from files."""
    choices = {
        name: [None, *(option.values or [True])] for name, option in options.items() if not option.takes
    }
    for chosen in product(*choices.values()):
        yield {name: value for name, value in zip(choices, chosen, strict=True) if value is not None}


def single(options):
    """Each value of each option alone, and none."""
    return [
        {},
        *({name: value} for each in combinations(options) for name, value in each.items() if len(each) == 1),
    ]


VARIANTS = [
    *single(RESTV2_OPTIONS),
    {"target": "k", "mhim": True},
    {"target": "x", "upsample": "bilinear", "pe": "rpe"},
    {"attention": "msa", "mhim": True},
    {"attention": "sra", "pe": "rpe"},
    {"branches": "convnet", "target": "x", "upsample": "nearest"},
]

# Those that `make test` takes where each takes long; sweeps take all.
FEW = [{}, {"mhim": True}, {"style": "hwin"}, {"pe": "rpe"}, {"branches": "convnet"}, {"stem": "pool"}]


def words(options):
    return (
        ",".join(name if value is True else f"{name}={value}" for name, value in options.items()) or "default"
    )


def randomised(module):
    """Weights of a size at which every part matters, norms and biases too; in fp64."""
    module = module.double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def relative(out, truth):
    return ((out.double() - truth).abs().max() / truth.abs().max()).item()


def by_loops(attention, x, size):
    """Appendix E and equations 1, 2 and 4, a query, a key and a channel at a time, from the module's parameters."""
    switches, r, heads = attention.switches, attention.reduction, attention.heads
    weights = dict(attention.named_parameters())
    (height, width), channels, dim = size, x.shape[-1], x.shape[-1] // heads
    rows, columns = math.ceil(height / r), math.ceil(width / r)

    def linear(name, tokens):
        return torch.stack([weights[f"{name}.weight"] @ token + weights[f"{name}.bias"] for token in tokens])

    def layer_norm(name, token):
        centred = token - token.mean()
        scaled = centred / (centred.square().mean() + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def pixel(tokens, y, x_):
        return (
            tokens[y * width + x_] if 0 <= y < height and 0 <= x_ < width else torch.zeros(channels).double()
        )

    def reduce(tokens):
        if r == 1:
            return tokens
        kernel, first = (r, 0) if switches.reduction == "dense" else (r + 1, -(r // 2))
        reduced = []
        for y, x_ in product(range(rows), range(columns)):
            total = weights["sr.bias"].clone()
            for i, j in product(range(kernel), repeat=2):
                here, tap = (
                    pixel(tokens, y * r + first + i, x_ * r + first + j),
                    weights["sr.weight"][:, :, i, j],
                )
                total += tap @ here if switches.reduction == "dense" else tap[:, 0] * here
            reduced.append(layer_norm("sr_norm", total))
        return torch.stack(reduced)

    def attend(q, k, v):
        scores = torch.empty(heads, len(q), len(k)).double()
        for head, query, key in product(range(heads), range(len(q)), range(len(k))):
            own = slice(head * dim, (head + 1) * dim)
            kept = k[key][own]
            if switches.pe == "rpe":
                kept = (
                    kept
                    + weights["rpe_h"][head, key // columns, 0]
                    + weights["rpe_w"][head, 0, key % columns]
                )
            scores[head, query, key] = q[query][own] @ kept / math.sqrt(dim)
        if switches.mhim and heads > 1:
            mix = weights["transform_conv.weight"][:, :, 0, 0]
            scores = torch.stack(
                [
                    sum(mix[out, head] * scores[head] for head in range(heads))
                    + weights["transform_conv.bias"][out]
                    for out in range(heads)
                ]
            )
        maps = scores.exp() / scores.exp().sum(-1, keepdim=True)
        if switches.mhim and heads > 1:
            maps = torch.stack(
                [(each - each.mean()) / (each.var(correction=0) + 1e-5).sqrt() for each in maps]
            )
        return torch.cat([maps[head] @ v[:, head * dim : (head + 1) * dim] for head in range(heads)], 1)

    def upsample(target):
        grid = target.reshape(rows, columns, channels)
        out = []
        for y, x_ in product(range(height), range(width)):
            if switches.upsample == "nearest":
                out.append(grid[y // r, x_ // r])
            elif switches.upsample == "bilinear":
                near = []
                for at, last in ((y, rows - 1), (x_, columns - 1)):  # pixel centres, clamped at the border
                    where = max((at + 0.5) / r - 0.5, 0.0)
                    low = min(int(where), last)
                    near.append((low, min(low + 1, last), where - low if low < last else 0.0))
                (top, bottom, down), (left, right, along) = near
                upper = grid[top, left] * (1 - along) + grid[top, right] * along
                lower = grid[bottom, left] * (1 - along) + grid[bottom, right] * along
                out.append(upper * (1 - down) + lower * down)
            else:
                phase = (y % r) * r + x_ % r
                filters = torch.arange(channels) * r * r + phase
                total = (
                    weights["up.0.bias"][filters].clone()
                    if switches.up_bias
                    else torch.zeros(channels).double()
                )
                for i, j in product(range(3), repeat=2):
                    v_y, v_x = y // r + i - 1, x_ // r + j - 1
                    if 0 <= v_y < rows and 0 <= v_x < columns:
                        total += weights["up.0.weight"][filters, 0, i, j] * grid[v_y, v_x]
                out.append(layer_norm("up_norm", total))
        return torch.stack(out)

    outs = []
    for tokens in x:
        reduced = reduce(tokens)
        total = torch.zeros_like(tokens)
        targets = {"x": reduced}
        if switches.attends:
            q = linear("q", tokens)
            targets["k"], targets["v"] = linear("kv", reduced).split(channels, 1)
            total = total + attend(q, targets["k"], targets["v"])
        else:
            targets["v"] = linear("v", reduced)
        if switches.target:
            beside = len(tokens) - height * width  # a class token is in no map
            total[beside:] += upsample(targets[switches.target][beside:])
        outs.append(linear("proj", total))
    return torch.stack(outs)


def in_windows(attend, x, size, window):
    """`attend(tokens, size)` on one zero-padded window of one image at a time, a pixel at a time in and out."""
    (height, width), rows = size, []
    for tokens in x:
        out = [None] * len(tokens)
        for top, left in product(range(0, height, window), range(0, width, window)):
            inside = {
                (y, x_): (top + y) * width + left + x_
                for y, x_ in product(range(window), repeat=2)
                if top + y < height and left + x_ < width
            }
            nothing = torch.zeros_like(tokens[0])
            padded = [
                tokens[inside[place]] if place in inside else nothing
                for place in product(range(window), repeat=2)
            ]
            done = attend(torch.stack(padded)[None], (window, window))[0]
            for (y, x_), token in inside.items():
                out[token] = done[y * window + x_]
        rows.append(torch.stack(out))
    return torch.stack(rows)


def window_of(switches):
    return windows_of(switches.style, WINDOW, 2)[0]


def assert_compiles(module, backend, *inputs):
    """The module compiles in one graph, and gives eager's results within eager's own error."""
    compiled = torch.compile(module, backend=backend, dynamic=False, fullgraph=True)
    doubled = [each.double() if isinstance(each, torch.Tensor) else each for each in inputs]
    with torch.inference_mode():
        out, plain = compiled(*inputs), module(*inputs)
        truth = module.double()(*doubled)
    assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5


def gradcheck(module, *inputs):
    """Whether gradients of inputs and parameters are finite differences along random directions."""
    names, values = zip(*module.named_parameters(), strict=True)
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    others = inputs[len(tensors) :]

    def run(*given):
        parameters = dict(zip(names, given[len(tensors) :], strict=True))
        return functional_call(module, parameters, (*given[: len(tensors)], *others))

    given = [value.detach().double().requires_grad_() for value in (*tensors, *values)]
    return torch.autograd.gradcheck(run, given, fast_mode=True)
