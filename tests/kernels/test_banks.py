"""Wavefronts by addresses in PTX: what each width and stride takes, which threads run, and in which loop."""

import pytest

from kernels import banks
from kernels.banks import Waves
from kernels.sass import Named


def one(access, *before, warps=1):
    """The wavefronts of one access, after statements that make its address."""
    lines = ["mov.u32 %r1, %tid.x;", *before, access, "ret;"]
    (found,) = banks.waves("\n".join(f"\t{line}" for line in lines), {}, warps).values()
    return found


@pytest.mark.parametrize(
    ("access", "stride", "taken", "least"),
    [
        ("ld.shared.b32 %r9, [%r3];", 4, 1, 1),
        ("ld.shared.b32 %r9, [%r3];", 8, 2, 1),
        ("ld.shared.b32 %r9, [%r3];", 128, 32, 1),
        ("ld.shared.b32 %r9, [%r3];", 132, 1, 1),  # a row that is padded by a word
        ("ld.shared.b32 %r9, [%r3];", 0, 1, 1),  # all threads read one word
        ("st.shared.b16 [%r3], %rs1;", 2, 1, 1),  # two threads a word
        ("ld.shared.v2.b32 {%r8, %r9}, [%r3];", 8, 2, 2),
        ("ld.shared.v2.b32 {%r8, %r9}, [%r3+64];", 32, 8, 2),
        ("st.shared.v4.b32 [%r3], {%r6, %r7, %r8, %r9};", 16, 4, 4),
        ("st.shared.v4.b32 [%r3+1024], {%r6, %r7, %r8, %r9};", 32, 8, 4),
        ("st.shared.v4.b32 [%r3], {%r6, %r7, %r8, %r9};", 128, 32, 4),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r3];", 16, 4, 4),
        ("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r6, %r7, %r8, %r9}, [%r3];", 128, 32, 4),
        ("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r3], {%r8, %r9};", 32, 4, 2),
    ],
)
def test_wavefronts_by_width_and_stride(access, stride, taken, least):
    found = one(
        access, f"mul.lo.s32 %r2, %r1, {stride};", "mov.b32 %r4, global_smem;", "add.s32 %r3, %r4, %r2;"
    )
    assert found == Waves(taken, least)


def test_a_swizzle_takes_conflicts_away():
    """Eight rows of 128 bytes, read down a column: in one bank, but where a row's number is XORed into its columns."""
    row = ["and.b32 %r2, %r1, 7;", "shr.u32 %r3, %r1, 3;", "shl.b32 %r4, %r2, 7;", "shl.b32 %r5, %r3, 4;"]
    swizzled = ["shl.b32 %r6, %r2, 4;", "xor.b32 %r7, %r5, %r6;", "or.b32 %r8, %r4, %r7;"]
    plain = ["or.b32 %r8, %r4, %r5;"]
    access = "ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r8];"
    assert one(access, *row, *plain) == Waves(32, 4)
    assert one(access, *row, *swizzled) == Waves(4, 4)


def test_threads_that_a_predicate_switches_off_ask_for_nothing():
    of_eight = ["shl.b32 %r2, %r1, 7;", "setp.lt.u32 %p1, %r1, 8;"]
    assert one("@%p1 ld.shared.b32 %r9, [%r2];", *of_eight) == Waves(8, 1)
    assert one("@!%p1 ld.shared.b32 %r9, [%r2];", *of_eight) == Waves(24, 1)
    assert one("@%p2 ld.shared.b32 %r9, [%r2];", *of_eight, "not.pred %p2, %p1;") == Waves(24, 1)


def test_warps_are_averaged():
    """The second warp's threads share a word, the first's are two to a bank."""
    stride = [
        "shr.u32 %r2, %r1, 5;",
        "sub.s32 %r3, 1, %r2;",
        "mul.lo.s32 %r4, %r1, %r3;",
        "shl.b32 %r5, %r4, 3;",
    ]
    assert one("ld.shared.b32 %r9, [%r5];", *stride, warps=2) == Waves(1.5, 1)


def test_what_is_not_known_before_it_runs_is_the_same_for_all_threads():
    size = ["ld.param.b32 %r2, [kernel_param_0];", "mul.lo.s32 %r3, %r2, %r1;", "shl.b32 %r4, %r1, 2;"]
    assert one("st.shared.b32 [%r5], %r9;", *size, "add.s32 %r5, %r4, %r3;") == Waves(1, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "popc.b32 %r2, %r1;",
        "mul.hi.u32 %r2, %r1, 1073741824;",  # its low half is another number
        "mov.b32 %r2, {%rs1, %rs2};",
        "selp.b32 %r2, 0, %r3, %p1;",  # of what is not known itself
    ],
)
def test_an_instruction_that_is_not_known_costs_no_more_than_the_least_and_is_counted(statement):
    found = one("ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r2];", "popc.b32 %r3, %r1;", statement)
    assert found == Waves(4, 4, unknown=4)


@pytest.mark.parametrize(
    ("statements", "threads"),
    [
        (["add.s32 %r3, %r1, -8;", "setp.lt.s32 %p1, %r3, 0;"], 8),
        (["add.s32 %r3, %r1, -8;", "setp.lt.u32 %p1, %r3, 8;"], 8),
        (["sub.s32 %r3, 7, %r1;", "setp.gt.s32 %p1, %r3, -1;"], 8),
        (["add.s32 %r3, %r1, -16;", "shr.s32 %r4, %r3, 31;", "setp.eq.s32 %p1, %r4, -1;"], 16),
        (["add.s32 %r3, %r1, -4;", "cvt.s64.s32 %rd1, %r3;", "setp.lt.s64 %p1, %rd1, 0;"], 4),
        (["and.b32 %r3, %r1, 0x1c;", "setp.eq.b32 %p1, %r3, 0;"], 4),
        (["bfe.s32 %r3, %r1, 3, 1;", "and.b32 %r4, %r3, 4160;", "setp.eq.b32 %p1, %r4, 4160;"], 16),
        (["bfe.u32 %r3, %r1, 3, 1;", "setp.eq.b32 %p1, %r3, 1;"], 16),
        (["neg.s32 %r3, %r1;", "setp.gt.s32 %p1, %r3, -5;"], 5),
        (["bfi.b32 %r3, %r1, 255, 4, 2;", "setp.eq.b32 %p1, %r3, 207;"], 8),
        (["cvt.u16.u32 %rs1, %r1;", "shl.b16 %rs2, %rs1, 13;", "setp.eq.b16 %p1, %rs2, 0;"], 4),
        (["mul.wide.u32 %rd1, %r1, 268435456;", "setp.lt.u64 %p1, %rd1, 1073741824;"], 4),
        (["setp.lt.u32 %p2, %r1, 6;", "setp.gt.u32 %p3, %r1, 1;", "and.pred %p1, %p2, %p3;"], 4),
    ],
)
def test_numbers_have_signs_and_widths(statements, threads):
    """Threads that read, each a word of its own in one bank."""
    found = one("@%p1 ld.shared.b32 %r9, [%r2];", "shl.b32 %r2, %r1, 7;", *statements)
    assert found == Waves(threads, 1)


LOOP = """
	.loc	1 3 0
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, 3;
	mov.b32 	%r3, 0;
	mov.b32 	%r5, %r2;
$L__BB0_1:
	.loc	1 5 8
	ld.shared.b32 	%r4, [%r5];
	add.s32 	%r5, %r5, 1024;
	add.s32 	%r3, %r3, 1;
	.loc	1 4 4
	setp.lt.s32 	%p1, %r3, %r9;
	@%p1 bra 	$L__BB0_1;
	.loc	1 6 4
	st.shared.b32 	[%r2], %r4;
	ret;
	.file	1 "/a/folder" "kernel.py"
"""


def test_an_access_counts_by_the_trips_of_its_loop():
    found = banks.waves(LOOP, {("/a/folder/kernel.py", 4): Named("kernel.turn", 5)}, 1)
    assert found == {("kernel.turn",): Waves(2, 1), (): Waves(2, 1)}
    assert banks.run(found, {"kernel.turn": 10}) == Waves(22, 11)
    with pytest.raises(ValueError, match=r"trips of kernel\.turn"):
        banks.run(found, {})


def test_global_memory_has_no_banks():
    lines = ["mov.u32 %r1, %tid.x;", "ld.global.b32 %r2, [%rd1];", "st.global.b32 [%rd1], %r2;", "ret;"]
    assert banks.waves("\n".join(lines), {}, 1) == {}
