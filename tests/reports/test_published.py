"""Published speeds and rates, sourced, of models and GPUs that are known; a user's file, read or refused in a line."""

import gzip
import io
import os
from pathlib import Path

import pandas as pd
import pytest

from bench.cases import parse
from bench.errors import UsageError
from bench.machine.gpus import profiles
from reports import published
from reports.published import Speed, read

FOLDER = os.environ.get("PUBLIC_GPU_DATA")


def test_every_speed_and_rate_names_a_source_a_known_gpu_and_a_case_as_tables_write_it():
    sources = [(each.gpu, each.source) for each in published.speeds()]
    for gpu, source in (*sources, *((each.gpu, each.source) for each in published.rates())):
        assert gpu in profiles()
        assert source
    assert all(parse(speed.case).paper_name == speed.case for speed in published.speeds())


def test_no_rate_is_above_what_winograd_or_the_memory_allow():
    """cuDNN's F(2 × 2, 3 × 3) needs 16 products where 36 are counted."""
    for rate in published.rates():
        board = profiles()[rate.gpu]
        bound = (
            2.25 * board.peak_tflops[rate.dtype] * 1e12
            if rate.of_flops
            else (board.bandwidth_gb_s or 0) * 1e9
        )
        assert 0.5 * bound / 2.25 < rate.per_s < bound


@pytest.mark.skipif(not FOLDER, reason="PUBLIC_GPU_DATA names no folder of public GPU measurements")
def test_speeds_are_those_of_the_collection_that_names_commits():
    content = gzip.decompress(Path(FOLDER or "", "printed_throughput.csv.gz").read_bytes())
    collected = pd.read_csv(io.BytesIO(content))
    for speed in published.speeds():
        if "pycls" in speed.source:  # which is not in the collection
            continue
        same = collected[
            (collected.images_per_s == speed.images_per_s) & collected.gpu.str.startswith("V100")
        ]
        repository = speed.source.split()[0]
        assert same.source.str.contains(repository, regex=False).any(), speed


def written(folder, text):
    path = folder / "speeds.csv"
    path.write_text(text)
    return path


def test_a_users_file_is_read_with_what_it_leaves_out(tmp_path):
    path = written(
        tmp_path,
        "model,gpu,images_per_s,gmacs,dtype,case,extra\nMine,V100,100.5,4,,swin_tiny,x\nYours,t4,7,0.5,fp16,,\n",
    )
    assert read(path) == [
        Speed("Mine", "v100", 100.5, "fp32", "swin_tiny@224", "speeds.csv", macs=4e9),
        Speed("Yours", "t4", 7.0, "fp16", source="speeds.csv", macs=5e8),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,gpu,images_per_s\nA,v100,1\n", "no column 'gmacs'"),
        ("", "no rows"),
        ("model,gpu,images_per_s,gmacs\nA,v10,1,1\n", "line 2: column 'gpu': .*did you mean 'v100'"),
        (
            "model,gpu,images_per_s,gmacs\nA,v100,1,1\nB,v100,-1,1\n",
            "line 3: column 'images_per_s': expected a number",
        ),
        ("model,gpu,images_per_s,gmacs\nA,v100,nan,1\n", "column 'images_per_s'"),
        ("model,gpu,images_per_s,gmacs\n,v100,1,1\n", "column 'model': is empty"),
        ("model,gpu,images_per_s,gmacs\nA,v100\n", "column 'images_per_s'"),
        ("model,gpu,images_per_s,gmacs,case\nA,v100,1,1,swin_huge\n", "column 'case'"),
        ("model,gpu,images_per_s,gmacs,dtype\nA,v100,1,1,fp33\n", "column 'dtype'"),
        ("model,gpu,images_per_s,gmacs\nA,v100,1,400,4.1\n", "line 2: 5 values for 4 columns"),
        ("model,gpu,images_per_s,gmacs\nA,v100,1_400,4.1\n", "column 'images_per_s'"),
        ("model,gpu,images_per_s,gmacs\nA,v100,1e300,4.1\n", "column 'images_per_s'"),
        ("model,gpu,gmacs,images_per_s,gmacs\nA,v100,1,1,4\n", "column 'gmacs' is there twice"),
        ('model,gpu,images_per_s,gmacs\n"A,v100,1,4\nB,v100,1,4\n', "is no CSV file"),
        ('model,gpu,images_per_s,gmacs\n"A\nB",v100,1,4\n\nC,v100,-1,4\n', "line 5: column"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_line_and_column(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        read(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no CSV file"):
        read(tmp_path / "binary.csv")
