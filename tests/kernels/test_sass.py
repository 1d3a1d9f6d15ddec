"""Counting SASS: on listings written by hand, in which every instruction can be counted by eye."""

import pytest

from kernels import sass


def listing(*lines, file="kernel.py"):
    """A text as `nvdisasm -c -g` writes it: a label ends with a colon, a number is a line of the source."""
    text, address = [".text.kernel:"], 0
    for line in lines:
        if isinstance(line, int):
            text.append(f'\t//## File "/any/where/{file}", line {line}')
        elif line.endswith(":"):
            text.append(line)
        else:
            text.append(f"        /*{address:04x}*/ {line:>40} ;")
            address += 16
    # what every listing ends with: a branch to itself that nothing reaches, and padding
    end = [".L_x_99:", f"        /*{address:04x}*/                   BRA `(.L_x_99);"]
    return "\n".join([*text, *end, f"        /*{address + 16:04x}*/                   NOP;"])


def times(text, trips):
    return dict(sass.count(text, {("kernel.py", line): often for line, often in trips.items()}).times)


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
    with pytest.raises(ValueError, match=r"3 instructions are not known: kernel\.py:5"):
        times(text, {4: 7})


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


def test_the_same_line_of_another_file_is_another_loop():
    text = listing(5, ".L_x_0:", "FADD R1, R1, R2", "@P0 BRA `(.L_x_0)", "EXIT", file="shared.py")
    assert sass.count(text, {("shared.py", 5): 2, ("kernel.py", 5): 9}).times["FADD"] == 2


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
