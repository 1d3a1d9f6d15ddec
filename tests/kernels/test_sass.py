"""Counting SASS: on listings written by hand, in which every instruction can be counted by eye."""

import pytest

from kernels import sass

FILE = "/any/where/kernel.py"


def listing(*lines, file=FILE):
    """A text as `nvdisasm -c -g` writes it: a label ends with a colon, a number is a line of the source."""
    text, address = [".text.kernel:"], 0
    for line in lines:
        if isinstance(line, int):
            text.append(f'\t//## File "{file}", line {line}')
        elif line.endswith(":"):
            text.append(line)
        else:
            text.append(f"        /*{address:04x}*/ {line:>40} ;")
            address += 16
    # what every listing ends with: a branch to itself that nothing reaches, and padding
    end = [".L_x_99:", f"        /*{address:04x}*/                   BRA `(.L_x_99);"]
    return "\n".join([*text, *end, f"        /*{address + 16:04x}*/                   NOP;"])


def times(text, trips):
    counted = sass.count(text, {(FILE, line): sass.Named(f"line {line}", line) for line in trips})
    return dict(sass.run(counted, {f"line {line}": often for line, often in trips.items()}).times)


def test_what_nothing_reaches_is_not_counted():
    assert times(listing(1, "MOV R1, c[0x0][0x28]", "EXIT"), {}) == {"MOV": 1, "EXIT": 1}


def test_nothing_at_all_is_an_error():
    with pytest.raises(ValueError, match="no instruction"):
        sass.count("", {})


def test_a_loop_counts_its_trips():
    text = listing(
        *(1, "MOV R1, R0", ".L_x_0:"),
        *(6, "FFMA R4, R8, R2, R4", 5, "ISETP.NE.AND P0, PT, R1, R2, PT", "@P0 BRA `(.L_x_0)"),
        *(9, "STG.E [R2], R4", "EXIT"),
    )
    assert times(text, {5: 7}) == {
        **{"MOV": 1, "FFMA": 7, "ISETP.NE.AND": 7, "BRA": 7},
        **{"STG.E": 1, "EXIT": 1},
    }
    with pytest.raises(ValueError, match=r"a loop of 3 instructions is none that is known: kernel\.py:5"):
        times(text, {4: 7})
    with pytest.raises(ValueError, match="the trips of fives are not given"):
        sass.run(sass.count(text, {(FILE, 5): sass.Named("fives", 5)}), {"sixes": 6})


def test_nested_loops_multiply():
    text = listing(
        *(4, "MOV R1, R0", ".L_x_0:", 5, "MOV R3, R0", ".L_x_1:"),
        *(6, "FFMA R4, R8, R2, R4", "@P0 BRA `(.L_x_1)"),
        *(5, "@!P1 BRA `(.L_x_0)", 9, "EXIT"),
    )
    assert times(text, {5: 3, 6: 10}) == {"MOV": 1 + 3, "FFMA": 30, "BRA": 30 + 3, "EXIT": 1}


def test_a_loop_may_go_back_without_a_condition():
    """ptxas ends a loop on sm_80 by a call that never returns, and goes back by a branch without a condition."""
    text = listing(
        *(1, "MOV R1, R0", ".L_x_1:", 6, "FFMA R4, R8, R2, R4"),
        *(5, "@!P4 CALL.REL.NOINC `(.L_x_0)", "BRA `(.L_x_1)"),
        *(".L_x_0:", 9, "STG.E [R2], R4", "EXIT"),
    )
    counted = times(text, {5: 3})
    assert counted == {"MOV": 1, "FFMA": 3, "CALL.REL.NOINC": 3, "BRA": 3, "STG.E": 1, "EXIT": 1}


def test_a_loop_may_go_back_by_a_uniform_predicate():
    """On sm_100 the condition is an operand, and the branch has the line of what stood beside it, its test its own."""
    text = listing(
        *(1, "UMOV UR4, URZ", ".L_x_0:", 6, "FFMA R4, R8, R2, R4"),
        *(5, "UISETP.NE.U32.AND UP0, UPT, UR4, 0x6c0, UPT", 7, "FADD R5, R4, R5"),
        *("BRA.U UP0, `(.L_x_0)", 9, "EXIT"),
    )
    counted = times(text, {5: 3})
    assert counted == {"UMOV": 1, "FFMA": 3, "UISETP.NE.U32.AND": 3, "FADD": 3, "BRA.U": 3, "EXIT": 1}


def test_what_a_predicate_ends_goes_on_for_the_rest():
    text = listing(
        1, "@P0 EXIT", "@!P1 BRA `(.L_x_0)", "MUFU.EX2 R1, R1", ".L_x_0:", "STS.128 [R2], R4", "EXIT"
    )
    assert times(text, {}) == {"EXIT": 2, "BRA": 1, "MUFU.EX2": 1, "STS.128": 1}


def test_a_wait_that_was_moved_out_of_line_is_run_through_once():
    """The way back from it is a branch back, but to what does not lie before everything that it goes through."""
    text = listing(
        *(1, ".L_x_2:", 5, "SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR4], RZ", 8, "@!P5 BRA `(.L_x_0)"),
        *(".L_x_1:", 6, "FFMA R4, R8, R2, R4", 5, "@P0 BRA `(.L_x_2)", 9, "EXIT"),
        *(
            ".L_x_0:",
            8,
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR4], RZ",
            "@!P5 BRA `(.L_x_0)",
            "BRA `(.L_x_1)",
        ),
    )
    counted = times(text, {5: 4})
    assert counted["FFMA"] == 4 and counted["SYNCS.PHASECHK.TRANS64.TRYWAIT"] == 8 and counted["EXIT"] == 1


def test_where_a_register_says_where_to_go_nothing_is_counted():
    with pytest.raises(ValueError, match="BRX goes to what a register holds"):
        times(listing(1, "BRX R2 -0x10", "EXIT"), {})


def test_of_a_loop_that_was_unrolled_in_part_the_one_counts_that_makes_a_round_at_a_time():
    text = listing(
        *(5, ".L_x_0:", "FADD R1, R1, R2", "FADD R1, R1, R3", "@P0 BRA `(.L_x_0)"),
        *(".L_x_1:", "FADD R1, R1, R2", "@P0 BRA `(.L_x_1)", "EXIT"),
    )
    assert (
        sass.run(sass.count(text, {(FILE, 5): sass.Named("kernel.row", 5)}), {"kernel.row": 4}).times["FADD"]
        == 4
    )
    # two loops over the same are no one, and a function that is called twice has its loops twice
    twice = text.replace(".L_x_1:", f'.L_x_1:\n\t//## File "{FILE}", line 6')
    counted = sass.count(twice, {(FILE, line): sass.Named("kernel.row", line) for line in (5, 6)})
    assert sass.run(counted, {"kernel.row": 4}).times["FADD"] == 12
    assert (
        sass.run(sass.count(text, {(FILE, 5): sass.Named("helper.row", 5)}), {"helper.row": 4}).times["FADD"]
        == 12
    )


def test_a_test_may_stand_beside_something_else():
    """What counts the rounds still has the line of the `for`, and inner loops have names of their own."""
    text = listing(
        *(7, ".L_x_0:", "MOV R3, RZ", 6, ".L_x_1:", "FFMA R4, R8, R2, R4", "@P0 BRA `(.L_x_1)"),
        *(4, "IADD3 R1, R1, 0x1, RZ", 9, "ISETP.NE.AND P1, PT, R1, R2, PT", "@P1 BRA `(.L_x_0)", "EXIT"),
    )
    assert times(text, {4: 3, 6: 10})["FFMA"] == 30
    assert times(text, {4: 3, 6: 10})["IADD3"] == 3


def test_a_loop_that_kept_none_of_its_own_lines_is_the_one_around_its_body():
    """As ptxas leaves one of two rounds on sm_120: what counts them is gone."""
    text = listing(
        *(2, "MOV R1, R0", ".L_x_0:", 5, "FFMA R4, R8, R2, R4", "@P0 BRA `(.L_x_0)", 9, "EXIT"),
    )
    around, other = sass.Named("kernel.head", 6), sass.Named("kernel.tile", 6)
    counted = sass.count(text, {(FILE, 4): around})
    assert sass.run(counted, {"kernel.head": 2}).times["FFMA"] == 2
    elsewhere = {("/other.py", 4): sass.Named("helper.head", 6)}
    for named in ({(FILE, 4): around, (FILE, 3): other}, {(FILE, 6): around}, elsewhere):
        with pytest.raises(ValueError, match="none that is known"):
            sass.count(text, named)


def test_a_loop_around_one_that_was_unrolled_is_where_its_branch_stands():
    """It has lines of both; what goes back stands in the outer one alone."""
    text = listing(2, ".L_x_0:", "FFMA R4, R8, R2, R4", 5, "MOV R5, R6", 8, "@P0 BRA `(.L_x_0)", 9, "EXIT")
    named = {(FILE, 2): sass.Named("helper.i", 3), (FILE, 5): sass.Named("kernel.head", 8)}
    counted = sass.count(text, named)
    assert sass.run(counted, {"kernel.head": 4, "helper.i": 3}).times["FFMA"] == 4


def test_of_loops_of_one_name_it_is_one_that_was_not_met():
    """Two go over the heads; the second has lines of the first, and no test of its own."""
    text = listing(
        *(3, ".L_x_0:", "FFMA R4, R8, R2, R4", "@P0 BRA `(.L_x_0)"),
        *(
            9,
            ".L_x_1:",
            3,
            "MOV R5, R6",
            7,
            "FADD R4, R8, R2",
            "FADD R5, R8, R2",
            9,
            "@P1 BRA `(.L_x_1)",
            "EXIT",
        ),
    )
    first, second = sass.Named("kernel.head", 5), sass.Named("kernel.head", 8)
    counted = sass.count(text, {(FILE, 3): first, (FILE, 7): second})
    times = sass.run(counted, {"kernel.head": 4}).times
    assert times["FFMA"] == 4
    assert times["FADD"] == 8
    with pytest.raises(ValueError, match="none that is known"):
        sass.count(text, {(FILE, 3): first, (FILE, 7): sass.Named("kernel.tile", 8)})


def test_a_loop_of_functions_alone_is_the_kernels_own():
    shared = "/any/where/shared.py"
    text = listing(".L_x_0:", 5, "FADD R1, R1, R2", "@P0 BRA `(.L_x_0)", "EXIT", file=shared)
    named = {(FILE, 3): sass.Named("kernel.head", 9)}
    assert sass.run(sass.count(text, named), {"kernel.head": 6}).times["FADD"] == 6
    with pytest.raises(ValueError, match="none that is known"):  # which of two is not told
        sass.count(text, {**named, (FILE, 4): sass.Named("kernel.tile", 9)})


def test_the_same_line_of_another_file_is_another_loop():
    shared = "/any/where/shared.py"
    text = listing(5, ".L_x_0:", "FADD R1, R1, R2", "@P0 BRA `(.L_x_0)", "EXIT", file=shared)
    counted = sass.count(text, {(shared, 5): sass.Named("shared", 5), (FILE, 5): sass.Named("other", 5)})
    assert counted.keys() == {(), ("shared",)}
    assert sass.run(counted, {"shared": 2, "other": 9}).times["FADD"] == 2


def test_loops_are_named_by_function_and_variable(tmp_path):
    file = tmp_path / "kernel.py"
    file.write_text(
        "def kernel(n):\n    for row in range(n):\n        for tap in tl.range(3):\n            pass\n"
        "    for tap in tl.static_range(3):\n        pass\n    while row < n:\n        pass\n"
    )
    assert sass.loops_in(listing(1, "EXIT", file=file)) == {
        (str(file), 2): ("kernel.row", 4),
        (str(file), 3): ("kernel.tap", 4),
        (str(file), 7): ("kernel.row", 8),
    }


# ---- registers that nothing wrote


def test_a_uniform_register_that_nothing_wrote_is_found():
    """As ptxas 12.8 left them on sm_90: the low half of a descriptor, and the high one."""
    text = listing(
        *(1, "UMOV UR4, 0x400", "UIADD3 UR18, UP0, UR18, 0x2, URZ"),
        *("UIADD3.X UR19, UR19, -0x7fffffe0, URZ, UP0, !UPT", "IADD3 R4, R4, UR4, RZ", "EXIT"),
    )
    assert sass.undefined(text) == [
        "UIADD3 UR18, UP0, UR18, 0x2, URZ reads UR18",
        "UIADD3.X UR19, UR19, -0x7fffffe0, URZ, UP0, !UPT reads UR19",
    ]


def test_the_half_of_a_register_that_is_left_as_it_is_need_not_be_written():
    """ptxas 12.9 takes the high one of two bf16 so, and later shifts the other half out."""
    half = listing(1, "UMOV UR7, 0x4", "UPRMT UR6, UR7, 0x7632, UR6", "EXIT")
    assert sass.undefined(half) == []
    assert sass.undefined(half.replace("0x7632, UR6", "0x7632, UR6              ?trans1")) == []
    for moved in ("0x5410", "0x7654", "0x6732", "UR7"):  # bytes of it are read into other places, or may be
        read = half.replace("0x7632", moved)
        expected = [] if moved == "0x7654" else [f"UPRMT UR6, UR7, {moved}, UR6 reads UR6"]
        assert sass.undefined(read) == expected
    assert sass.undefined(half.replace("UR7, 0x7632", "UR8, 0x7632")) == [
        "UPRMT UR6, UR8, 0x7632, UR6 reads UR8"
    ]
    assert sass.undefined(half.replace("0x7632, UR6", "0x7632, UR5")) == [
        "UPRMT UR6, UR7, 0x7632, UR5 reads UR5"
    ]


def test_a_register_that_some_way_writes_is_not():
    """Also around a loop, and under a predicate: what is read then is another question."""
    text = listing(
        *(1, ".L_x_0:", "@!UP0 UIADD3 UR4, UPT, UPT, -UR5, 0x100000, URZ", "UMOV UR5, 0x4"),
        *("SYNCS.EXCH.64 URZ, [UR5+0x1000], UR4", "@P0 BRA `(.L_x_0)", "EXIT"),
    )
    assert sass.undefined(text) == []
    assert sass.undefined(text.replace("UMOV UR5", "UMOV UR6")) == [
        "UIADD3 UR4, UPT, UPT, -UR5, 0x100000, URZ reads UR5",
        "SYNCS.EXCH.64 URZ, [UR5+0x1000], UR4 reads UR5",
    ]


@pytest.mark.parametrize(
    ("instruction", "reads", "writes"),
    [
        ("ULDC.64 UR4, c[0x0][0x208]", set(), {4, 5}),
        ("LDG.E.128 R4, desc[UR20][R2.64+0x80]", {20, 21}, set()),
        ("HGMMA.64x64x16.F32 R24, gdesc[UR8], R24, gsb0", {8, 9, 10, 11}, set()),
        ("HGMMA.64x64x16.F32 R24, R72, gdesc[UR8].tnspB, R24", {10, 11}, set()),
        ("UTCHMMA gdesc[UR20], gdesc[UR22], tmem[UR13], idesc[UR35], UPT", {20, 21, 22, 23, 13, 35}, set()),
        ("UIADD3 UR4, UP0, UPT, UR6, 0x40, URZ", {6}, {4}),
        ("VOTEU.ALL UP0, P4", set(), set()),
        ("UTCATOMSWS.FIND_AND_SET.ALIGN UP0, UR5, UR6", {6}, {5}),
        ("BRA.DIV UR4, `(.L_x_0)", {4}, set()),
        ("FFMA R4, R5.reuse, UR7, -R6", {7}, set()),
    ],
)  # fmt: skip
def test_uniform_registers_of_an_instruction(instruction, reads, writes):
    (row,) = sass.read(f"        /*0000*/   {instruction} ;").instructions
    assert sass.uniform(row) == (reads, writes)


# ---- what an instruction is


def test_counts_add_up_by_pipe():
    counts = sass.Counts({"FFMA": 3.0, "HMMA.16816.F32": 2.0, "BRA": 1.0}) * 2 + sass.Counts({"FADD": 1.0})
    assert counts.by_pipe == {"fma": 7, "tensor": 4, "other": 2}
    assert counts.issued == 13
    assert counts.matrix == "HMMA.16816"
    assert sass.Counts({"FFMA": 1.0}).matrix == "FFMA"


@pytest.mark.parametrize(
    ("name", "pipe"),
    [
        ("HGMMA.64x64x16.F32", "tensor"),
        ("HFMA2.MMA", "half2"),
        ("HADD2.F32", "half2"),
        ("IMAD.WIDE.U32", "imad"),
        ("LOP3.LUT", "alu"),
        ("MUFU.EX2", "mufu"),
        ("SHFL.BFLY", "lsu"),
        ("LDSM.16.M88.4", "lsu"),
        ("UIADD3", "other"),
        ("UTCBAR", "other"),
        ("BAR.SYNC.DEFER_BLOCKING", "other"),
    ],
)
def test_pipes(name, pipe):
    assert sass.pipe(name) == pipe


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("HMMA.884.F32.F32.STEP0", "HMMA.884"),
        ("HMMA.16816.F32.BF16", "HMMA.16816"),
        ("HMMA.1688.F32.TF32", "HMMA.1688.TF32"),
        ("HGMMA.64x64x16.F32", "HGMMA"),
        ("UTCHMMA", "UTCHMMA"),
        ("FFMA", ""),
        ("HFMA2", ""),
    ],
)
def test_families_of_matrix_instructions(name, family):
    assert sass.family(name) == family


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("LDG.E.128", 16),
        ("LDG.E.128.CONSTANT", 16),
        ("LDG.E.64.LTC128B", 8),
        ("LDG.E", 4),
        ("LDG.E.U16", 2),
        ("STG.E.U8", 1),
        ("STS.128", 16),
        ("LDSM.16.M88.4", 16),  # four matrices of 8×8 halves are 512 bytes for 32 threads
        ("LDSM.16.MT88.2", 8),
        ("LDSM.16.M88", 4),
        ("LDGSTS.E.BYPASS.128", 16),
        ("SHFL.BFLY", 0),
        ("FFMA", 0),
    ],
)
def test_bytes_a_thread(name, each):
    assert sass.bytes_a_thread(name) == each
    assert sass.Counts({name: 2.0}).l1_bytes == 2 * 32 * each


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("HMMA.16816.F32", 16 * 8 * 16),
        ("HMMA.1688.F32.TF32", 16 * 8 * 8),
        ("HMMA.884.F32.F32.STEP2", 256),  # four steps make 8×8×4 in each quarter of a warp
        ("HGMMA.64x96x16.F32.BF16", 64 * 96 * 16 // 4),
    ],
)
def test_macs_of_a_warp(name, macs):
    assert sass.Counts({name: 3.0}).macs == 3 * macs


def test_macs_are_not_known_where_a_name_does_not_tell():
    assert sass.Counts({"UTCHMMA": 1.0, "HMMA.16816.F32": 1.0}).macs is None
    assert sass.Counts({"FFMA": 1.0}).macs == 0
