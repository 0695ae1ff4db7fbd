"""The output folder: refused before the work if in use, filled at once when the work is done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from equipoise.cli.exits import Interrupted
from equipoise.cli.options import OutputOptions
from equipoise.errors import EquipoiseError
from equipoise.files import held

CHECKPOINT = "checkpoint"
_STAGE = ".partial-"
# A folder that has these is complete, so they come last.
_LAST = ("steering_config.json", "results.json")


class OutputFolder:
    """Where a command leaves its results.

    While the work goes on the folder holds at most ``checkpoint/``. If the work ends early, that
    is all that stays, and the folder goes if it was made for this and holds nothing.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []

    @classmethod
    @contextmanager
    def claimed(cls, options: OutputOptions) -> Iterator[OutputFolder]:
        """Make sure of a folder for the length of the work.

        Raises:
            EquipoiseError: It is in use and ``overwrite`` was not given, is a file, or cannot be
                made or written.
            Interrupted: Ctrl-C; says whether the work can be resumed.
        """
        folder = cls(options.out.expanduser())
        folder._refuse(overwrite=options.overwrite)
        try:
            folder._make()
            with held(folder.path) as mine:
                if mine is False:
                    raise EquipoiseError(
                        f"another command is working in {folder.path}; give another --out, or wait"
                    )
                folder._refuse(overwrite=options.overwrite)  # it may have come to its end meanwhile
                if mine:
                    folder._clear()
                yield folder
        except KeyboardInterrupt:
            how = f"nothing was kept in {folder.path}"
            if folder.resumable:
                how = f"the same command again resumes from {folder.checkpoint}"
            raise Interrupted(f"interrupted; {how}") from None
        finally:
            folder._tidy()

    @property
    def checkpoint(self) -> Path:
        """Where a fit keeps what it resumes from."""
        return self.path / CHECKPOINT

    @property
    def resumable(self) -> bool:
        """Whether an interrupted fit left something."""
        return self.checkpoint.is_dir() and any(self.checkpoint.iterdir())

    def fill(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill an empty folder, then move all it wrote into place.

        The checkpoint goes: what it was for is done.
        """
        with tempfile.TemporaryDirectory(prefix=_STAGE, dir=self.path) as name:
            stage = Path(name)
            write(stage)
            files = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
            for file in files:
                if file.name in _LAST:  # what is being replaced must not look complete meanwhile
                    (self.path / file).unlink(missing_ok=True)
            for file in sorted(files, key=lambda f: (f.name in _LAST, len(f.parts) == 1, f)):
                target = self.path / file
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / file, target)
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _refuse(self, *, overwrite: bool) -> None:
        path = self.path
        if path.is_dir():
            in_use = [p for p in path.iterdir() if not _leftover(p)]
            if in_use and not overwrite:
                raise EquipoiseError(
                    f"{path} exists and is not empty; give another --out, or --overwrite to "
                    "replace its results"
                )
        elif path.exists() or path.is_symlink():
            raise EquipoiseError(f"{path} is a file; --out takes a folder")

    def _make(self) -> None:
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(prefix=_STAGE, dir=self.path).cleanup()
        except OSError as error:
            raise EquipoiseError(f"cannot write to {self.path}: {error.strerror}") from None
        finally:
            self._made = missing

    def _clear(self) -> None:
        """Remove what a command that was killed had begun to write."""
        for stage in self.path.glob(f"{_STAGE}*"):
            shutil.rmtree(stage, ignore_errors=True)

    def _tidy(self) -> None:
        """Remove what this command made and left empty."""
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                return


def _leftover(path: Path) -> bool:
    """What a fit that was cut off may leave behind."""
    return path.name == CHECKPOINT or path.name.startswith(_STAGE)
