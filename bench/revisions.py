"""Two revisions of a repository, each in a git worktree of its own, which are gone afterwards. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.text import printable

FOLDER = "bench-worktrees"  # within the repository's .git; each run has a folder of its own there, and a lock


@dataclass(frozen=True)
class Revision:
    """One side of a comparison: a commit, and where it is checked out."""

    commit: str
    folder: Path  # the worktree's counterpart of the folder that the repository was named by


class Repository:
    """A git repository, by a folder of it: that of our code, or a user's. `top` is its own folder.

    Args:
        folder: any folder in it; a worktree's counterpart of it is where modules are looked for.
        paths: what of it runs, relative to `folder`: only a change of these makes the tree dirty.
    """

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self.folder, self.paths = folder.resolve(), paths
        self._said = ""  # by git, of the last command that failed
        top = self._git("rev-parse", "--show-toplevel")
        if top is None:
            raise UsageError(f"no revisions to compare in {folder}: {self._said}")
        self.top = Path(top).resolve()
        self._inner = self.folder.relative_to(self.top)
        common = Path(self._git("rev-parse", "--git-common-dir") or "")
        self._shelf = (self.folder / common / FOLDER).resolve()

    def commit(self, revision: str) -> str:
        """The commit that a revision names.

        Raises:
            UsageError: there is none.
        """
        found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if not found:
            if self._git("rev-parse", "--verify", "--quiet", "HEAD") is None:
                raise UsageError(f"the repository of {self.folder} has no commit yet")
            raise UsageError(
                f"no commit {revision!r} here; a shallow clone has few: git fetch --unshallow, or fetch the branch"
            )
        return found

    def head(self) -> str:
        """The commit that is checked out, with nothing changed since.

        Raises:
            UsageError: there are changes that no commit has.
        """
        changed = self._git("status", "--porcelain", "--", *self.paths)
        if changed:
            first = changed.splitlines()[0].split(maxsplit=1)[-1]
            raise UsageError(f"the tree has changes that no commit has ({first}): commit or stash them first")
        return self.commit("HEAD")

    def differs(self, old: str, new: str, *paths: str) -> bool:
        """Whether two commits differ in these paths, from the top of the repository."""
        changed = self._git("diff", "--name-only", old, new, "--", *(f":/{path}" for path in paths))
        return changed is None or bool(changed)  # git cannot tell: they may

    @contextmanager
    def checked_out(self, old: str, new: str) -> Iterator[tuple[Revision, Revision]]:
        """Both commits in worktrees, for as long as the context lasts; what killed runs left is cleared away first.

        Raises:
            UsageError: git cannot check one of them out.
        """
        with self._reserved() as place:
            try:
                yield (
                    Revision(old, self._add(place / "base", old)),  # names of one length: a path's length
                    Revision(new, self._add(place / "head", new)),  # moves a process's stack
                )
            finally:
                shutil.rmtree(place, ignore_errors=True)
                self._git("worktree", "prune")
                with contextlib.suppress(OSError):  # another run has a folder there
                    self._shelf.rmdir()

    def _add(self, place: Path, commit: str) -> Path:
        command = ["worktree", "add", "--quiet", "--detach", str(place), commit]
        if self._git(*command) is None:
            raise UsageError(f"git cannot check {commit[:12]} out into {place}")
        return place / self._inner

    @contextmanager
    def _reserved(self) -> Iterator[Path]:
        """A folder for this run, locked for as long as this process lives."""
        # another run must not take the folder for a dead one's before it is locked
        with self._alone_in_git():
            self._clear()
            self._shelf.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=self._shelf))
            lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            os.close(lock)

    @contextmanager
    def _alone_in_git(self) -> Iterator[None]:
        """Holds the folder that the shelf is in, for the moment in which a run makes or clears a place there."""
        handle = os.open(self._shelf.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _clear(self) -> None:
        """Remove the folders of runs that are no more."""
        for place in self._shelf.glob("*"):
            with contextlib.suppress(OSError):  # a live run holds its lock
                lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place, ignore_errors=True)
                finally:
                    os.close(lock)
        self._git("worktree", "prune")

    def _git(self, *arguments: str) -> str | None:
        """The output of a git command; None where it fails."""
        # hooks are the user's, and no business of a copy that nobody works in
        command = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(self.folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError as error:
            self._said = f"git cannot be started: {error.strerror}"
            return None
        if done.returncode:
            lines = printable(done.stderr.decode(errors="replace")).strip().splitlines()
            self._said = lines[0] if lines else "git does not say why"
            return None
        return os.fsdecode(done.stdout).strip()
