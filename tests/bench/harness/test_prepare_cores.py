"""The EMSAv2 cores as cases: their shapes, what they compute and count, and the options of a run that they need."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models
from bench import protocols
from bench.cases import parse
from bench.errors import Refused, UsageError
from bench.harness import inputs, macs, timing
from bench.harness.prepare import Spent, prepare
from bench.studies import STUDIES
from kernels.emsa_upsample import op, reference
from models.variants import CORES, MODELS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _compiled_kernels_only(monkeypatch):
    """As on a machine where Triton compiles, whatever the environment says."""
    torch.manual_seed(0)
    torch.compiler.reset()
    monkeypatch.setattr(op, "INTERPRETED", False)


# ---- the cores


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("size", [(224, 224), (384, 384), (800, 1344), (797, 1333)])
def test_shapes_are_those_in_the_model(name, size):
    """Of what the model itself hands to its first attention of each stage."""
    config = CORES[name]
    whole = next(model for model, its in MODELS.items() if its == config.of)
    with torch.device("meta"), torch.inference_mode():
        model = models.build(whole)
        seen = []

        def look(module, arguments):
            tokens, map_size = arguments
            keys = module._reduce(tokens, map_size).shape[1]
            seen.append(
                (module.q.in_features, module.heads, module.reduction, map_size, tokens.shape[1], keys)
            )

        for stage in range(1, 5):
            getattr(model, f"stage{stage}")[0].attn.register_forward_pre_hook(look)
        model(torch.empty(1, 3, *size))
    for stage, (dim, heads, reduction, map_size, queries, keys) in enumerate(seen, start=1):
        it = config.shape(size, stage=str(stage))
        assert (it.dim, it.heads, it.reduction, it.map_size) == (dim, heads, reduction, map_size)
        assert config.inputs(size, stage=str(stage)) == ((queries, dim), (keys, 2 * dim))
    assert len(seen) == 4


@pytest.mark.parametrize("stage", "1234")
@pytest.mark.parametrize("impl", ["eager", "sdpa", "auto"])
def test_a_core_is_what_stands_between_the_projections(stage, impl):
    """Attention with projections that leave their input as it is comes to the core of those inputs."""
    name, size = "core_lite", (70, 100)
    core = models.build(name, size=size, stage=stage, impl=impl).double()
    ((q, kv),) = inputs.calls(parse(f"{name}[stage={stage}]@70x100"), 2, CPU, dtype=torch.float64)
    k, v = kv.chunk(2, -1)
    conv, norm = core.up[0], core.up_norm
    expected = reference.emsa_upsample(
        *(q, k, v, conv.weight, conv.bias, norm.weight, norm.bias),
        heads=core.heads,
        size=core.size,
        reduction=core.reduction,
    )
    with torch.inference_mode():
        assert (core(q, kv) - expected).abs().max() < 1e-12
    assert {name.partition(".")[0] for name, _ in core.named_parameters()} == {"up", "up_norm"}


def test_a_core_gives_its_tensors_to_the_kernel(monkeypatch):
    seen = []

    def instead(*tensors, **geometry):
        seen.append(geometry)
        return reference.emsa_upsample(*tensors, **geometry)

    monkeypatch.setattr(op, "emsa_upsample", instead)
    eager, fused = (
        models.build("core_lite", size=(64, 96), stage="2", impl=impl) for impl in ("eager", "fused")
    )
    fused.load_state_dict(eager.state_dict())
    (given,) = inputs.calls(parse("core_lite[stage=2]@64x96"), 3, CPU)
    with torch.inference_mode():
        assert torch.allclose(fused(*given), eager(*given), atol=1e-6)
    assert seen == [{"heads": 2, "size": (8, 12), "reduction": 4, "eps": 1e-6, "window": None}]


@pytest.mark.parametrize("impl", ["eager", "sdpa", "compile", "fused", "fused+compile"])
@pytest.mark.parametrize("stage", "1234")
def test_every_implementation_counts_the_same(impl, stage):
    """As many products and taps as the formulas of the kernel's README say, in every one, by operator."""
    (height, width), r, dim = CORES["core_tiny"].shape((224, 224), stage).map_size, 2 ** (4 - int(stage)), 96
    dim *= 2 ** (int(stage) - 1)
    queries = height * width
    counts = macs.count(parse(f"core_tiny[stage={stage}]@224:{impl}"))
    assert counts.by_operator("core") == {"matmul": 2 * queries * 49 * dim, "conv": 9 * queries * dim}
    assert counts.least_traffic == (dim * (2 * queries + 2 * 49), dim * (9 * r**2 + r**2 + 2))
    assert counts.uncounted == {}


def test_a_whole_model_has_no_least_traffic():
    assert macs.count(parse("restv2_lite@64")).least_traffic is None


# ---- what cannot be asked for


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("core_tiny[stage=5]", "unknown value '5' of stage"),
        ("core_tiny[mhim]", "unknown option 'mhim' of core_tiny"),
        ("core_tiny:train", "a part of a model is not trained alone"),
        (
            "core_tiny[channels_last]",
            "channels_last is an order of images, and a part of a model takes tokens",
        ),
        (
            "restv2_tiny[sdpa=flash]:eager",
            "sdpa=… says how the implementation 'sdpa' runs, and this is another",
        ),
        ("restv2_tiny[sdpa=fast]:sdpa", "unknown value 'fast' of sdpa"),
        ("restv2_tiny[graph]:train", "a graph replays an inference, and this is a step of training"),
        ("core_tiny@16", "core_tiny takes 32 to"),
    ],
)
def test_what_makes_no_sense_is_one_line(text, why):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def take(text):
    return prepare(parse(text), 1, CPU, lambda phase: None, Spent())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("core_lite@32:b1:fp32:fused", "the fused kernel needs an NVIDIA GPU, and does not run on a CPU"),
        ("core_lite[graph]@32:b1:fp32:eager", "a CUDA graph needs an NVIDIA GPU"),
        ("core_lite[sdpa=cudnn]@32:b1:fp32:sdpa", "SDPA has no cudnn kernel for this"),
    ],
)
def test_what_a_cpu_does_not_run_is_refused(text, why):
    with pytest.raises(Refused) as caught:
        take(text)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_a_kernel_of_sdpa_is_the_one_that_runs(kernel):
    """By PyTorch's own name for it, as the profiler sees it."""
    it = take(f"core_lite[sdpa={kernel}]@32:b1:fp32:sdpa")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        it.run()
    names = {event.key for event in profiled.key_averages()}
    assert ("aten::_scaled_dot_product_attention_math" in names) == (kernel == "math")
    assert any("flash_attention" in name for name in names) == (kernel == "flash")


def test_a_wrong_core_is_not_timed(monkeypatch):
    """The check holds for cores too: an upsample branch that is left out is seen."""
    from bench.errors import Wrong

    it = take("core_lite[stage=2]@64:b2:fp32:sdpa")
    assert it.check["against"] == "eager in fp64" and it.check["error"] <= it.check["bound"]
    monkeypatch.setattr(
        "models.attention.ATTEND", {"eager": reference.attend, "sdpa": lambda q, k, v, heads: q}
    )
    with pytest.raises(Wrong, match="differs from eager in fp64"):
        take("core_lite[stage=2]@64:b2:fp32:sdpa")


# ---- cold caches, several iterations a call


class Events:
    """Synthetic CUDA events on a clock that each kernel moves on."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def run(self, name, milliseconds):
        def launch():
            self.log.append(name)
            self.now += milliseconds

        return launch

    def event(self):
        outer = self

        class Event:
            def record(self):
                self.at = outer.now

            def elapsed_time(self, end):
                return end.at - self.at

        return Event()


def test_a_cold_gpu_clock_flushes_before_each_iteration_and_leaves_that_out():
    events = Events()
    flush, kernel = events.run("flush", 7.0), events.run("kernel", 2.0)
    clock = timing.CudaClock(events.event, lambda: None, flush)
    assert clock.flush_s == pytest.approx(7e-3)
    events.log.clear()
    assert clock(kernel, 3) == pytest.approx(3 * 2e-3)
    assert events.log == ["flush", "kernel"] * 3
    warm = timing.CudaClock(events.event, lambda: None)
    events.log.clear()
    assert warm(kernel, 3) == pytest.approx(3 * 2e-3)
    assert events.log == ["kernel"] * 3


def test_a_cold_cpu_clock_does_the_same(monkeypatch):
    events = Events()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.now)
    clock = timing.CpuClock(events.run("flush", 7.0))
    assert clock.flush_s == 7.0
    assert clock(events.run("run", 2.0), 4) == 8.0
    assert events.log == ["flush", *["flush", "run"] * 4]


def test_what_flushes_is_larger_than_any_cache_and_leaves_nothing_to_be_written_back():
    """The last buffer is read: had it been written, the case would wait for its lines to leave the cache."""
    clock = timing.clock(CPU, cold=True)
    with Touched() as touched:
        clock(lambda: None, 1)
    (wrote, written), (read, only_read) = touched.calls
    assert (wrote, read) == ("zero_", "sum")
    assert written.data_ptr() != only_read.data_ptr()
    assert min(written.nbytes, only_read.nbytes) == timing.FLUSH_BYTES >= 2 * 126e6


class Touched(TorchDispatchMode):
    """Notes which operators run, each with its first tensor."""

    def __enter__(self):
        self.calls = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func._schema.name.partition("::")[2], args[0]))
        return func(*args, **(kwargs or {}))


class Steady:
    """Says that a call takes a millisecond."""

    def __init__(self, flush_s=0.0):
        self.flush_s, self.calls = flush_s, []

    def __call__(self, run, iterations):
        self.calls.append(iterations)
        return 1e-3 * iterations


RULES = protocols.Rules("test", 2, 0, 0.05, 6, 6, 0, limit_s=1)


def test_of_a_call_that_makes_several_iterations_the_time_of_one_is_kept():
    from bench.machine.state import NoMonitor

    clock = Steady()
    taken = timing.sample(print, clock, NoMonitor(), RULES, per_call=20)
    assert clock.calls == [1, 1, *[50] * 6]
    assert taken.samples_s == pytest.approx([1e-3 / 20] * 6)
    assert (taken.iterations_per_sample, taken.warmup_iterations) == (1000, 40)
    both = timing.interleave(print, list, Steady(), NoMonitor(), RULES, per_call=(20, 1))
    assert both.iterations_per_sample == [1000, 50]
    assert both.blocks[0] == pytest.approx([1e-3 / 20, 1e-3, 1e-3, 1e-3 / 20])


def test_the_flush_is_part_of_what_fills_a_sample():
    from bench.machine.state import NoMonitor

    clock = Steady(flush_s=4e-3)
    timing.sample(print, clock, NoMonitor(), RULES)
    assert clock.calls[2:] == [10] * 6


# ---- the study


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_study_names_no_case_twice_and_compares_only_its_own(kind, quick):
    study = STUDIES["kernels"]
    listed = study.parsed(kind, quick)
    assert len({*listed}) == len(listed)
    pairs = [(parse(first), parse(second)) for first, second in study.pairs(kind, quick)]
    assert {case for pair in pairs for case in pair} <= {*listed}
    assert pairs
    if quick:
        assert {*listed} & {*study.parsed(kind, False)}
    whole = {case.impl for case in listed if not case.core}
    wanted = {"eager", "sdpa", "compile", "fused", "fused+compile"} if kind == "cuda" else {"eager", "sdpa"}
    assert wanted <= whole


def test_a_quick_look_on_a_gpu_has_every_stage_of_t_at_batches_that_fill_it():
    quick = {case for case in STUDIES["kernels"].parsed("cuda", True) if case.core and case.impl == "fused"}
    assert {(case.core, case.size, case.batch, case.has("cold")) for case in quick} == {
        (("ResTv2-T", stage), size, batch, cold)
        for stage in "1234"
        for size, batch in (((224, 224), 64), ((224, 224), 256), ((800, 1344), 8))
        for cold in (True, False)
    }


def test_on_a_gpu_it_has_every_stage_of_t_and_l_at_three_sizes_and_batches_1_to_256():
    listed = [case for case in STUDIES["kernels"].parsed("cuda", False) if case.core]
    fused = [case for case in listed if case.impl == "fused" and not case.has("cold")]
    assert {case.core for case in fused} == {(f"ResTv2-{m}", s) for m in "TL" for s in "1234"}
    assert {case.size for case in fused} == {(224, 224), (384, 384), (800, 1344)}
    batches = {case.batch for case in fused}
    assert {1, 256} <= batches
    assert len(fused) == 8 * 3 * len(batches)
    assert all(case.has("graph") for case in listed)
