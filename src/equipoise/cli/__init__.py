"""The command line: thin over ``study``. Nothing here imports torch before a command needs it."""

from equipoise.cli.main import main

__all__ = ["main"]
