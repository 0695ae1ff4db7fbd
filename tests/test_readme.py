"""What the README and docs/python.md promise: their Python runs, commands parse, files exist."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise as eq

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, but two steps long and on a few items."""
    monkeypatch.setattr(eq, "run", functools.partial(eq.run, steps=2, twins_per_step=4))
    monkeypatch.setattr(eq, "task", functools.partial(eq.task, limit=120))
    monkeypatch.setattr(eq, "capability", functools.partial(eq.capability, limit=20))
    scope: dict[str, object] = {}
    exec(blocks("python")[0], scope)
    assert isinstance(scope["steering"], eq.Steering)


def test_three_lines_for_plain_transformers(tmp_path: Path) -> None:
    model = eq.load("builtin:")
    eq.Steering.identity(model).save_pretrained(tmp_path / "steering")
    inputs = model.tokenizer("Who?", return_tensors="pt", return_token_type_ids=False)
    code = blocks("python")[1].replace('"steering/"', repr(str(tmp_path / "steering")))
    exec(code, {"hf_model": model.hf, "inputs": inputs})


def test_the_python_of_a_steering_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks("python", (ROOT / "docs/python.md").read_text()):
        exec(block, scope)
    report, mask = scope["report"], scope["attachment"].mask  # type: ignore[attr-defined]
    assert report.ok, report  # type: ignore[attr-defined]
    assert mask.sum() == 2


def test_the_commands_are_commands() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    named = {line.split()[1] for line in lines if line.startswith("equipoise ")}
    assert named == {"run", "audit", "fit", "sweep", "fold"}
    for name in named:
        text = " ".join(lines)
        options = set(re.findall(r"--[\w-]+", text.partition(f"equipoise {name}")[2].split("#")[0]))
        shown = subprocess.run(
            [sys.executable, "-m", "equipoise", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": ""},
        ).stdout
        first = options if name != "run" else options - {"--strengths"}
        missing = {o for o in first if o not in shown}
        assert not missing, (name, missing)


def test_the_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in (*links, "scripts/quickstart.sh", "scripts/test.sh", "scripts/bundled_model"):
        assert (ROOT / link).exists(), link
