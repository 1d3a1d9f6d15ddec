"""Weights in: the authors' files fit, a wrong one is an error that names what is wrong and executes nothing."""

import argparse
import copy
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch

import models
from models import checkpoint
from tests.support.sweeps import swept

MODEL = "restv2_lite"  # a third of the bytes of the smallest that has weights; its keys are named as the authors' are


@pytest.fixture(scope="module")
def state():
    """Other weights than those that a model begins with."""
    return {
        key: value.cos() if value.is_floating_point() else value + 1
        for key, value in models.build(MODEL).state_dict().items()
    }


@pytest.fixture(scope="module")
def built():
    return models.build(MODEL)


@pytest.fixture
def model(built):
    return copy.deepcopy(built)  # to draw its initial values takes ten times as long


def assert_loaded(model, state):
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap", [lambda s: {"model": s}, lambda s: s, lambda s: {f"module.{k}": s[k] for k in s}]
)
def test_pth_as_the_authors_save_it(model, state, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "w.pth")
    checkpoint.load(model, tmp_path / "w.pth")
    assert_loaded(model, state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "args": argparse.Namespace(lr=1e-3), "epoch": 3},
        lambda s: {"state_dict": s, "optimizer": {}},
        lambda s: {"model_ema": {f"module.{k}": s[k] for k in s}},
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": s[k] for k in s}},
    ],
)
def test_the_usual_nestings_and_prefixes(model, state, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "w.pth")
    checkpoint.load(model, tmp_path / "w.pth")
    assert_loaded(model, state)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda path, s: path.write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"),
            "Git LFS pointer",
        ),
        (lambda path, s: path.write_text("\n<!DOCTYPE html><html></html>"), "an HTML page"),
        (lambda path, s: os.mkfifo(path), "a pipe or a device"),
        (lambda path, s: path.symlink_to(path), "cannot read"),
        (lambda path, s: torch.save({"epoch": 3, "best": 0.5}, path), "its keys are epoch, best"),
        (lambda path, s: torch.save({k: s[k].to(torch.int8) for k in s}, path), "is of torch.int8"),
        (lambda path, s: torch.save({k: s[k].to(torch.complex64) for k in s}, path), "is of torch.complex64"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(model, state, tmp_path, write, words):
    write(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(model, tmp_path / "w.pth")
    assert "execute" not in str(caught.value) and "\n" not in str(caught.value)


def test_safetensors_under_another_name(state, tmp_path, model):
    safetensors.torch.save_file(state, tmp_path / "w.pth")
    checkpoint.load(model, tmp_path / "w.pth")
    assert_loaded(model, state)


def test_safetensors(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert_loaded(models.build(MODEL, weights=str(tmp_path / "w.safetensors")), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("stage3.1.attn.up.0.weight"), r"missing stage3\.1\.attn\.up\.0\.weight"),
        (lambda s: s.update(extra_key=torch.zeros(2)), "extra extra_key"),
        (lambda s: s.update({"head.weight": torch.zeros(10, 512)}), "head.weight is 10x512, not 1000x512"),
        (lambda s: s.clear(), "holds no state dict"),
        (lambda s: s.update(epoch=3), "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(model, state, tmp_path, change, words):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wrong = dict(state)
    change(wrong)
    torch.save(wrong, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(model, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert_loaded(model, before)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_file_that_would_execute_code_is_refused_and_does_not(model, tmp_path):
    for save in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        save({"model": Evil(tmp_path / "executed")}, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match="it would execute code") as caught:
            checkpoint.load(model, tmp_path / "evil.pth")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "executed").exists()


def _zip_of_nothing(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.parametrize("name", swept(["w.pth", "w.safetensors"], lambda name: name == "w.safetensors"))
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint at all"),
        lambda path: path.write_bytes(path.read_bytes()[:100_000]),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        _zip_of_nothing,
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.unlink(),
        lambda path: path.write_text("root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/bin/sh\n"),
    ],
    ids=["empty", "text", "start", "cut", "zip", "folder", "missing", "passwd"],
)
def test_a_corrupt_or_missing_file_is_one_clear_line(model, state, tmp_path, name, damage):
    path = tmp_path / name
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    damage(path)
    with pytest.raises(ValueError, match=r"w\.") as caught:
        checkpoint.load(model, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "own", "fits"),
    [
        (torch.ones(2), torch.ones(2, dtype=torch.cfloat), False),
        (torch.ones(2, dtype=torch.cfloat), torch.ones(2), False),
        (torch.ones(2), torch.ones(2, dtype=torch.int64), False),
        (torch.tensor([True, False]), torch.ones(2), False),
        (torch.tensor([1, 2**40]), torch.ones(2, dtype=torch.int32), False),
        (torch.tensor([1, 5]), torch.tensor([True, True]), False),
        (torch.tensor([1, 5], dtype=torch.int32), torch.ones(2, dtype=torch.int64), True),
        (torch.ones(2, dtype=torch.half), torch.ones(2), True),
        (torch.ones(2, dtype=torch.cdouble), torch.ones(2, dtype=torch.cfloat), True),
    ],
)
def test_no_weights_are_cast_from_one_kind_to_another(tmp_path, saved, own, fits):
    holder = torch.nn.Module()
    holder.register_buffer("weight", own.clone())
    torch.save({"weight": saved}, tmp_path / "w.pth")
    if fits:
        checkpoint.load(holder, tmp_path / "w.pth")
        assert torch.equal(holder.weight.to(saved.dtype), saved)
        return
    with pytest.raises(ValueError, match="weight is of torch"):
        checkpoint.load(holder, tmp_path / "w.pth")
    assert torch.equal(holder.weight, own)
