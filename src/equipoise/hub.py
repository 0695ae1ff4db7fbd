"""Whether the hub answers: asked before its own client, which tries again for half a minute."""

from __future__ import annotations

from typing import Literal

_TIMEOUT = 10
"""Seconds."""


def hub_answers(name: str, kind: Literal["model", "dataset"], revision: str | None = None) -> bool:
    """Whether the hub says anything of a repository, be it that there is none.

    Args:
        name: Hub id.
        kind: Of what.
        revision: The revision wanted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_TIMEOUT)
    except HfHubHTTPError:
        return True  # with a refusal, which the loaders put into words
    except Exception:  # the HTTP client's own errors; which client, depends on the version
        return False
    return True
