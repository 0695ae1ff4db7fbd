"""What steering costs in time and memory, beside other libraries, against the unsteered model.

    python benchmarks/speed.py --out RUN [--envs ENVS] [--threads 1]

A random-weight Llama of 110 million parameters on the CPU, and the shape of Llama 3 8B in bf16
where there is a GPU; ``generate`` for decoding at batch 1 and 32 and for a prefill of 4 x 512
tokens. Every library runs in an environment of its own (made under ENVS from PyPI, pinned) and in
a process of its own, with its own unsteered model in the same rounds. RUN gets ``speed.json`` and a
file per part; a part that is there, made with the same settings and code, is not run again.
``--quick`` is a slice of seconds, with equipoise alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import speed_measure as measure
import speed_worker
import torch

from equipoise.files import write_atomically, write_json
from equipoise.study.environment import environment

HERE = Path(__file__).parent
LIBRARIES = {
    "equipoise": [],
    "steering-vectors": ["steering-vectors==0.12.2", "transformers==4.57.6"],
    "repeng": ["repeng==0.4.0", "transformers==5.23.0"],
    "pyvene": ["pyvene==0.1.8", "transformers==5.23.0"],
}
"""What pip installs for each, torch aside; nothing: it runs in this environment."""

WANTED = {
    "affine at every norm": "≤ +3 %",
    "folded": "within the noise of 0",
    "folded, slopes only": "within the noise of 0",
    "affine, one strength per row": "no slower than one strength",
}


class PartError(Exception):
    """A part that could not be run; the message is one line."""


def main() -> None:
    """Run what is missing, print the tables, write ``speed.json``."""
    asked = _arguments()
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"cannot write {asked.out}: {error.strerror}")
    found = []
    for job in _jobs(asked):
        print(f"{job['shape']}, {job['workload']}, {job['library']}", file=sys.stderr, flush=True)
        try:
            found.append(_summary(_run(job, asked)))
        except PartError as error:
            found.append({"job": job, "error": str(error)})
    write_json(asked.out / "speed.json", {"environment": environment(), "parts": found})
    for shape in dict.fromkeys(part["job"]["shape"] for part in found):
        _print(shape, [part for part in found if part["job"]["shape"] == shape])
    if not asked.quick and not torch.cuda.is_available():
        print("\n8b, bf16: not run, for there is no GPU")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--envs", type=Path, help="folder for the peers' environments; none: RUN")
    parser.add_argument("--threads", type=int, default=1, help="of torch, per process")
    parser.add_argument("--seconds", type=float, default=120, help="per library and workload")
    parser.add_argument("--rounds", type=int, default=15, help="at least, whatever the time")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--workloads", nargs="+", choices=measure.WORKLOADS)
    parser.add_argument("--quick", action="store_true", help="tiny model, equipoise alone")
    asked = parser.parse_args()
    asked.envs = asked.envs or asked.out / "environments"
    if asked.quick:
        asked.libraries, asked.seconds, asked.rounds = ["equipoise"], 0, 5
    return asked


def _jobs(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shapes = ["quick"] if asked.quick else ["100m", *["8b"] * torch.cuda.is_available()]
    for shape in shapes:
        for workload in asked.workloads or measure.WORKLOADS:
            for library in asked.libraries:
                yield {
                    "library": library,
                    "shape": shape,
                    "workload": workload,
                    "threads": asked.threads,
                    "seconds": asked.seconds,
                    "rounds": asked.rounds,
                    "code": _digest(library),
                }


def _digest(library: str) -> str:
    """Of the code that is measured: our own, or a peer's pinned versions."""
    import equipoise.steering

    sha = hashlib.sha256(json.dumps(LIBRARIES[library]).encode())
    files = [HERE / "speed_measure.py", HERE / "speed_worker.py"]
    if library == "equipoise":
        files += sorted(Path(equipoise.steering.__file__).parent.rglob("*.py"))
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _run(job: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    name = f"{job['shape']}-{job['workload']}-{job['library']}".replace(",", "").replace(" ", "-")
    kept, order = asked.out / f"{name}.json", asked.out / f"{name}.job.json"
    if kept.is_file():
        part = json.loads(kept.read_text(encoding="utf-8"))
        if part["job"] == job:
            return part
    if asked.quick:
        return speed_worker.run(job)  # two imports of transformers would take longer than all else
    python = _python(job["library"], asked.envs)
    write_json(order, job)
    command = [str(python), str(HERE / "speed_worker.py"), str(order), str(kept) + ".new"]
    done = subprocess.run(command, capture_output=True, text=True)
    order.unlink()
    if done.returncode:
        raise PartError(_last_line(done.stderr))
    new = Path(str(kept) + ".new")
    write_atomically(kept, new.read_bytes())
    new.unlink()
    return json.loads(kept.read_text(encoding="utf-8"))


def _python(library: str, envs: Path) -> Path:
    """The interpreter of a library's environment, which is made where it is not there yet."""
    if not LIBRARIES[library]:
        return Path(sys.executable)
    folder = envs / library
    python, mark = folder / "bin/python", folder / "installed"
    # The same torch for all, so that the unsteered models are as alike as they can be.
    wanted = [*LIBRARIES[library], f"torch=={torch.__version__.split('+')[0]}"]
    if not mark.is_file() or mark.read_text(encoding="utf-8") != " ".join(wanted):
        print(f"installing {' '.join(wanted)}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
        if done.returncode:
            raise PartError(f"pip: {_last_line(done.stderr)}")
        mark.write_text(" ".join(wanted), encoding="utf-8")
    return python


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def _summary(part: dict[str, Any]) -> dict[str, Any]:
    """A part with its ratios."""
    if "error" in part:
        return part
    seconds, memory = part["seconds"], part["memory"]
    base, unit = seconds[measure.UNSTEERED], part["activation_bytes"]

    def against(name: str, other: str) -> dict[str, float]:
        keys = ("estimate", "low", "high")
        return dict(zip(keys, measure.ratio(seconds[name], seconds[other]), strict=True))

    rows, one = "affine, one strength per row", "affine at every norm"
    variants = {
        name: {
            "milliseconds": 1000 * sorted(times)[len(times) // 2],
            "against_unsteered": against(name, measure.UNSTEERED),
            "peak_activations": (memory[name][0] - memory[measure.UNSTEERED][0]) / unit,
            "allocated_activations": (memory[name][1] - memory[measure.UNSTEERED][1])
            / (unit * part["passes"] * part["sites"][name]),
            "moved": part["moved"][name],
            "differs": part["differs"].get(name),
        }
        for name, times in seconds.items()
    }
    found = {k: part[k] for k in ("job", "versions", "device", "clock", "parameters")}
    found |= {"rounds": len(base), "activation_bytes": unit, "variants": variants}
    if rows in seconds:
        found["rows_against_one"] = against(rows, one)
    return found


def _print(shape: str, parts: list[dict[str, Any]]) -> None:
    done = [part for part in parts if "error" not in part]
    for part in parts:
        if "error" in part:
            job = part["job"]
            print(f"\n{job['library']}, {job['workload']}: not run: {part['error']}")
    if not done:
        return
    first = done[0]
    device = first["device"] if first["device"] != "cpu" else environment()["processor"]
    print(
        f"\n{shape}: {first['parameters'] / 1e6:.0f} M parameters; {device}, "
        f"{first['job']['threads']} thread(s), {first['clock']}"
    )
    for versions in dict.fromkeys(tuple(part["versions"].items()) for part in done):
        print("- " + ", ".join(f"{name} {value}" for name, value in versions))
    workloads = list(dict.fromkeys(part["job"]["workload"] for part in done))
    rounds = sorted(part["rounds"] for part in done)
    print(
        f"\nTime against the unsteered model of the same process, median of {rounds[0]} to "
        f"{rounds[-1]} rounds [95 %]\n"
    )
    _table(done, workloads, lambda row: _percent(row["against_unsteered"]), WANTED)
    for part in done:
        if "rows_against_one" in part:
            ratio = _percent(part["rows_against_one"])
            print(f"{part['job']['workload']}: one strength per row against one for all: {ratio}")
    print(
        "\nMemory beyond the unsteered model's, in activations: at the peak / allocated per site "
        "and pass\n"
    )
    _table(done, workloads, _memory, {"affine at every norm": "≤ 1"})
    print(
        "\nLargest difference between the logits of ways to do the same, in spreads of the logits"
    )
    for part in done:
        for name, row in part["variants"].items():
            if row["differs"] is not None:
                job = part["job"]
                print(f"- {job['library']}, {job['workload']}, {name}: {row['differs']:.1e}")


def _table(
    parts: list[dict[str, Any]],
    workloads: list[str],
    cell: Callable[[dict[str, Any]], str],
    wanted: dict[str, str],
) -> None:
    """Variants by workload."""
    print(f"| library | variant | {' | '.join(workloads)} | wanted |")
    print("|---|---" + "|---" * len(workloads) + "|---|")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for part in parts:
        for name, row in part["variants"].items():
            if name != measure.UNSTEERED:
                line = cells.setdefault((part["job"]["library"], name), {})
                line[part["job"]["workload"]] = cell(row)
    order = list(LIBRARIES)
    for (library, name), line in sorted(cells.items(), key=lambda item: order.index(item[0][0])):
        middle = " | ".join(line.get(workload, "–") for workload in workloads)
        aim = wanted.get(name, "") if library == "equipoise" else ""
        print(f"| {library} | {name} | {middle} | {aim} |")


def _memory(row: dict[str, Any]) -> str:
    return f"{row['peak_activations']:+.2f} / {row['allocated_activations']:.2f}"


def _percent(ratio: dict[str, float]) -> str:
    middle, low, high = (100 * (ratio[key] - 1) for key in ("estimate", "low", "high"))
    return f"{middle:+.2f} % [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
