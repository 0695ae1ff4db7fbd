"""Settings of the process, made before the libraries they concern; the user's own win."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare() -> None:
    """Set up threads, memory, other libraries' logs and the standard streams."""
    # Threads that spin for long slow small models down several times over when other work is going
    # on; threads that sleep at once, by a tenth when there is none.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    _keep_freed_memory()
    # Looking for garbage among all that libraries make while they load is a seventh of the start.
    gc.set_threshold(20_000, 20, 20)
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ω must not break an ASCII terminal


def _keep_freed_memory() -> None:
    """Have glibc reuse what one step frees in the next, up to 256 MiB.

    By default it gives each tensor of over 128 KiB back to the kernel, and faulting the pages in
    again is a sixth of a fit of the bundled model. Larger tensors than 32 MiB still go back.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)
