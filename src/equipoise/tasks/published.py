"""A file its authors publish outside the hub: fetched once, on request, and checked."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from equipoise.errors import EquipoiseError
from equipoise.files import write_atomically
from equipoise.tasks.hub import MissingDataError

_TIMEOUT = 20
"""Seconds without an answer after which the network counts as unreachable."""
_INSTEAD = "get it elsewhere and give its place with --data PATH"


@dataclass(frozen=True)
class PublishedFile:
    """One file at one commit of a public repository.

    Attributes:
        url: Where it lies, the commit included, so that it never changes.
        sha256: Its digest; anything else is refused.
    """

    url: str
    sha256: str

    def fetch(self, folder: str) -> Path:
        """The local copy, below the hub's own cache; downloaded where there is none yet.

        Args:
            folder: Name of its folder in the cache.

        Raises:
            MissingDataError: Offline (``HF_HUB_OFFLINE``), or unreachable.
            EquipoiseError: Not the file expected.
        """
        path = Path(constants.HF_HOME) / "equipoise" / folder / self.url.rsplit("/", 1)[-1]
        if path.exists() and self._is(path.read_bytes()):
            return path
        if constants.HF_HUB_OFFLINE:
            raise MissingDataError(
                f"{self.url}: not here yet, and HF_HUB_OFFLINE is set; {_INSTEAD}"
            )
        try:
            with urllib.request.urlopen(self.url, timeout=_TIMEOUT) as answer:
                content = answer.read()
        except (OSError, urllib.error.URLError) as error:
            raise MissingDataError(f"{self.url} cannot be read ({error}); {_INSTEAD}") from error
        if not self._is(content):
            raise EquipoiseError(f"{self.url}: its SHA-256 is not {self.sha256}; nothing was kept")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        return path

    def _is(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.sha256
