"""Worktrees of two revisions: made, gone afterwards whatever happens, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest

from bench.errors import UsageError
from bench.machine.provenance import ROOT
from bench.revisions import FOLDER, Repository
from tests.support.revisions import git


@pytest.fixture
def repository(tmp_path) -> Repository:
    """A repository of two commits: net.py holds 1, then 2."""
    folder = tmp_path / "hers"
    (folder / "inner").mkdir(parents=True)
    git(folder, "init", "-q")
    for number in (1, 2):
        (folder / "inner" / "net.py").write_text(f"number = {number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", str(number))
    return Repository(folder / "inner", ["net.py"])


def left(repository: Repository) -> list[str]:
    """The worktrees that there are, but for the repository itself."""
    listed = git(repository.folder, "worktree", "list").splitlines()[1:]
    shelf = repository.folder.parent / ".git" / FOLDER
    return [*listed, *(map(str, shelf.glob("*")) if shelf.exists() else ())]


def test_both_revisions_lie_in_worktrees_and_are_gone_afterwards(repository):
    old, new = repository.commit("HEAD~1"), repository.head()
    with repository.checked_out(old, new) as (base, head):
        assert (base.commit, head.commit) == (old, new)
        assert (base.folder / "net.py").read_text() == "number = 1\n"
        assert (head.folder / "net.py").read_text() == "number = 2\n"
        assert len(str(base.folder)) == len(str(head.folder))
        assert len(git(repository.folder, "worktree", "list").splitlines()) == 3
    assert left(repository) == []
    with pytest.raises(RuntimeError), repository.checked_out(old, new):
        raise RuntimeError
    assert left(repository) == []


def test_what_a_killed_run_left_is_cleared_away_at_the_next_and_a_live_one_is_let_alone(repository, tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bench.revisions import Repository\n"
        "repository = Repository(Path(sys.argv[1]), ['net.py'])\n"
        "head = repository.head()\n"
        "with repository.checked_out(head, head):\n"
        "    print('there', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command, environ = (
        [sys.executable, "-c", code, str(repository.folder)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
    )
    start = partial(subprocess.Popen, command, stdin=-1, stdout=-1, text=True, env=environ)  # -1: a pipe
    with start() as killed, start() as alive:
        assert killed.stdout
        assert alive.stdout
        assert killed.stdout.readline() == alive.stdout.readline() == "there\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(git(repository.folder, "worktree", "list").splitlines()) == 5
        head = repository.head()
        with repository.checked_out(head, head):
            pass
        assert len(git(repository.folder, "worktree", "list").splitlines()) == 3  # those of the live one
        alive.communicate("")
    assert alive.returncode == 0
    assert left(repository) == []


def test_a_revision_that_is_not_there_is_one_clear_line(repository):
    with pytest.raises(UsageError, match="no commit 'origin/main' here; a shallow clone has few"):
        repository.commit("origin/main")
    with pytest.raises(UsageError, match="no commit '--all'"):
        repository.commit("--all")


def test_changes_of_what_runs_make_a_tree_dirty_and_others_do_not(repository):
    (repository.folder / "notes.txt").write_text("mine")
    assert repository.head() == git(repository.folder, "rev-parse", "HEAD")
    (repository.folder / "net.py").write_text("number = 3\n")
    with pytest.raises(UsageError, match=r"changes that no commit has \(inner/net.py\): commit or stash"):
        repository.head()


def test_a_folder_outside_of_any_repository_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match=r"no revisions to compare in .*not a git repository"):
        Repository(tmp_path, [])


def test_differences_are_of_paths_from_the_top(repository):
    old, new = repository.commit("HEAD~1"), repository.head()
    assert repository.differs(old, new, "inner/net.py")
    assert not repository.differs(old, new, "constraints", "pyproject.toml")
    assert not repository.differs(old, old, "inner/net.py")


def test_it_works_in_a_clone_and_in_a_worktree(repository, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository.folder.parent}", str(clone))
    shallow = Repository(clone / "inner", ["net.py"])
    with pytest.raises(UsageError, match="no commit 'HEAD~1'"):
        shallow.commit("HEAD~1")
    git(clone, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"), "HEAD")
    inside = Repository(tmp_path / "tree" / "inner", ["net.py"])
    head = inside.head()
    with inside.checked_out(head, head) as (base, _):
        assert (base.folder / "net.py").read_text() == "number = 2\n"
    shutil.rmtree(tmp_path / "tree")
