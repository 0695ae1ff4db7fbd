"""The report in a real browser: its script runs, the strength moves everything, it can be seen."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import report_samples as samples

from equipoise.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no headless browser: none of {', '.join(NAMES)} is installed"
)

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Opens a page with a fresh profile; returns what the browser prints."""

    def browse(page: Path, fragment: str, *flags: str) -> str:
        command = [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
            *flags,
            page.as_uri() + fragment,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    return browse


def fills(dom: str) -> list[float]:
    """The bars as drawn."""
    return [float(v) for v in re.findall(r'class="fill \w+" style="--v: ?([-\d.e]+)', dom)]


def lines(dom: str, key: str) -> str:
    return re.search(rf'data-score="{key}".*?</tr>', dom, re.S)[0]  # type: ignore[index]


def test_address_sets_the_strength_of_everything(run: Run, tmp_path: Path) -> None:
    results = samples.sweep()
    page = write_report(results, tmp_path / "report.html")
    first, second = (run(page, f"#omega={omega}", "--dump-dom") for omega in ("0.2", "1"))
    for dom, row in ((first, results["sweep"][1]), (second, results["sweep"][5])):
        assert "data-error" not in dom
        assert re.search(r'<html[^>]*class="js"', dom)
        known = row["by_occupation"] | row["held_out"]["by_occupation"]
        shares = sorted(entry["pro"] - entry["anti"] for entry in known.values())
        assert sorted(fills(dom)) == pytest.approx(shares, abs=1e-4)
        bias = row["per_occupation_bias"]
        assert f">{bias['estimate']:.3f}<" in lines(dom, "bias")
        assert f"[{bias['low']:.3f}, {bias['high']:.3f}]" in lines(dom, "bias")
        told = lines(dom, "bias").replace("&nbsp;", " ")
        assert f">plug-in {bias['plug_in']:.3f}, at parity 0.031<" in told
        assert f'data-omega="{row["strength"]:g}"' in dom
        assert f'aria-valuetext="ω = {row["strength"]:g}"' in dom
        chosen = re.findall(r'<g class="point[^"]*\bon\b[^"]*" data-strength="([\d.]+)"', dom)
        assert chosen == [str(row["strength"])]
    assert fills(first) != fills(second)


def test_starts_at_the_chosen_strength_and_takes_the_nearest(run: Run, tmp_path: Path) -> None:
    page = write_report(samples.sweep(), tmp_path / "report.html")
    assert 'data-omega="0.8"' in run(page, "", "--dump-dom")
    assert 'data-omega="0.4"' in run(page, "#omega=0.47", "--dump-dom")


def test_negative_strengths_can_be_selected(run: Run, tmp_path: Path) -> None:
    results = samples.sweep()
    results["sweep"].append(samples.row(0.4) | {"strength": -0.5})
    page = write_report(results, tmp_path / "report.html")
    dom = run(page, "#omega=-0.5", "--dump-dom")
    assert "data-error" not in dom
    assert 'data-omega="−0.5"' in dom
    assert 'aria-valuetext="ω = −0.5"' in dom


@pytest.mark.parametrize("shape", [samples.audit, samples.bare, samples.groups, samples.comparison])
def test_every_shape_runs_without_an_error(
    run: Run, tmp_path: Path, shape: Callable[[], dict[str, object]]
) -> None:
    page = write_report(shape(), tmp_path / "report.html")
    dom = run(page, "#omega=0.2", "--dump-dom")
    assert re.search(r'<html[^>]*class="js"', dom)
    assert "data-error" not in dom


def test_the_largest_of_many_shares_follows_the_strength(run: Run, tmp_path: Path) -> None:
    results = samples.many_groups()
    page = write_report(results, tmp_path / "report.html")
    values = re.findall(r'class="value">([^<]*)<', run(page, "#omega=0.2", "--dump-dom"))
    shares = [entry["groups"].values() for entry in results["sweep"][1]["by_occupation"].values()]
    assert {f"{max(each):.2f} north_f" for each in shares} <= set(values)


def test_errors_would_be_seen(run: Run, tmp_path: Path) -> None:
    page = write_report(samples.sweep(), tmp_path / "report.html")
    page.write_text(page.read_text().replace('"strengths"', '"weaknesses"'))
    assert "data-error" in run(page, "", "--dump-dom")


def test_hostile_prompt_runs_nothing(run: Run, tmp_path: Path) -> None:
    results = samples.sweep()
    attack = "</script><script>document.documentElement.dataset.owned = 1</script>"
    results["worst_items"][0]["prompt"] = results["model"]["name"] = attack
    for row in results["sweep"]:
        row["by_occupation"][attack] = row["by_occupation"].pop("nurse")
    dom = run(write_report(results, tmp_path / "report.html"), "", "--dump-dom")
    assert "data-owned" not in dom
    assert "data-error" not in dom


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_wider_than_the_page_and_short_words_stay_whole(
    run: Run, tmp_path: Path, width: int
) -> None:
    page = write_report(samples.sweep(), tmp_path / "report.html")
    measure = """<script>
      const root = document.documentElement;
      root.dataset.spare = root.clientWidth - root.scrollWidth;
      root.dataset.option = Math.min(
        ...[...document.querySelectorAll(".item th[scope=row]")].map((cell) => cell.clientWidth));
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", measure))
    dom = run(page, "", "--dump-dom", f"--window-size={width},900")
    assert 'data-spare="0"' in dom
    assert int(re.findall(r'data-option="(\d+)"', dom)[0]) >= 80


@pytest.mark.parametrize(("width", "named"), [(1280, "table"), (500, "cell")])
def test_each_number_is_named_and_no_dot_is_cut(
    run: Run, tmp_path: Path, width: int, named: str
) -> None:
    results = samples.sweep()
    for row in results["sweep"]:
        row["per_occupation_bias"] |= {"estimate": 0.0, "low": 0.0}
    page = write_report(results, tmp_path / "report.html")
    measure = """<script>
      const seen = (selector) => document.querySelector(selector).getClientRects().length > 0;
      const left = (selector) => document.querySelector(selector).getBoundingClientRect().left;
      const root = document.documentElement.dataset;
      root.named = (seen(".scores thead") ? "table" : "") + (seen(".scores .head") ? "cell" : "");
      root.room = left("[data-score=bias] .now.spot") - left(".scroll");
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", measure))
    dom = run(page, "", "--dump-dom", f"--window-size={width},900")
    assert f'data-named="{named}"' in dom
    assert float(re.findall(r'data-room="([-\d.]+)"', dom)[0]) >= 0
    assert "at ω = <" in lines(dom, "bias")


@pytest.mark.parametrize("width", [1280, 420])
def test_is_painted_in_light_and_dark(run: Run, tmp_path: Path, width: int) -> None:
    page = write_report(samples.sweep(), tmp_path / "report.html")
    corners = []
    for scheme in (1, 0):
        shot = tmp_path / f"{scheme}.png"
        run(
            page,
            "",
            f"--screenshot={shot}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        size, corner, colours = look(shot)
        assert size[1] == 900
        assert colours > 50
        corners.append(corner)
    assert min(corners[0]) > 240
    assert max(corners[1]) < 40


def look(path: Path) -> tuple[tuple[int, int], tuple[int, ...], int]:
    """Size, the colour of the first pixel, and how many different rows of pixels a PNG has."""
    raw, data, offset = path.read_bytes(), b"", 8
    while offset < len(raw):
        length, kind = struct.unpack(">I4s", raw[offset : offset + 8])
        data += raw[offset + 8 : offset + 8 + length] if kind == b"IDAT" else b""
        offset += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
    assert (depth, colour in (2, 6)) == (8, True)
    channels = 3 if colour == 2 else 4
    pixels = zlib.decompress(data)
    stride = width * channels + 1
    rows = {pixels[k * stride : (k + 1) * stride] for k in range(height)}
    # The first pixel has no neighbour, so every filter stores it as it is.
    return (width, height), tuple(pixels[1:4]), len(rows)
