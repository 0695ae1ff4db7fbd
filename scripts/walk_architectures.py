"""Walk every causal-LM and image-text-to-text architecture of the installed transformers.

Each is built tiny from its configuration, with random weights, steered and folded; the result is
the table in ``docs/architectures.md``. Every architecture is a process of its own with a time
limit, so that no crash ends the walk; results are kept as they come, and a second call goes on
where the first one stopped.

    python scripts/walk_architectures.py [MODEL_TYPE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers.models.auto import modeling_auto

# Imported before the forks, or each child would import them again.
from transformers import GPT2LMHeadModel, LlavaForConditionalGeneration, MixtralForCausalLM  # noqa: F401 # isort: skip

from architectures.checks import Row, examine
from architectures.page import page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architectures.md"
LIMIT_SECONDS = 60


def architectures() -> list[Row]:
    """An empty row for each architecture of the registries."""
    text = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    image = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return [Row(name, kind, "text") for kind, name in text.items()] + [
        Row(name, kind, "image-text") for kind, name in image.items() if text.get(kind) != name
    ]


def examined(row: Row) -> dict[str, Any]:
    """A row, filled in by a child process; a child that dies or dawdles is a result too."""
    start = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(LIMIT_SECONDS)
        # The walked classes chatter; what matters comes back through the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            json.dump(examine(row).to_dict(), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not answer:
        code = os.waitstatus_to_exitcode(status)
        row.reason = f"the process ended with {code} (limit {LIMIT_SECONDS} s)"
        answer = json.dumps(row.to_dict())
    return {**json.loads(answer), "seconds": round(time.monotonic() - start, 2)}


def main() -> int:
    """Walk, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*", help="walk only these, and write no page")
    parser.add_argument("--results", type=Path, default=Path("walk.jsonl"), help="kept results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    done: dict[tuple[str, str], dict[str, Any]] = {}
    if args.results.is_file() and not args.model_types:
        for line in args.results.read_text(encoding="utf-8").splitlines():
            kept = json.loads(line)
            done[kept["model_type"], kept["architecture"]] = kept
    rows = architectures()
    for i, row in enumerate(rows):
        key = row.model_type, row.architecture
        if key in done or (args.model_types and row.model_type not in args.model_types):
            continue
        done[key] = examined(row)
        if args.model_types:
            print(json.dumps(done[key], indent=1))
            continue
        with args.results.open("a", encoding="utf-8") as kept_file:
            kept_file.write(json.dumps(done[key]) + "\n")
        print(f"{i + 1}/{len(rows)} {row.architecture}: {done[key]['reason'] or 'ok'}", flush=True)
    if not args.model_types:
        args.page.write_text(page(list(done.values()), transformers.__version__), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
