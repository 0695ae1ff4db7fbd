"""Axes hold what they must, with round ticks."""

from __future__ import annotations

import pytest
import report_samples as samples
from hypothesis import example, given
from hypothesis import strategies as st

from equipoise.report.charts import bias_chart
from equipoise.report.drawing import axis
from equipoise.report.view import Study

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(values=SHARES, span=st.sampled_from([0.0, 0.05, 0.1, 1.0]), steps=st.integers(2, 8))
def test_every_value_lies_on_the_axis(values: list[float], span: float, steps: int) -> None:
    drawn = axis(values, 0.0, 1000.0, span=span, limits=(0.0, 1.0), steps=steps)
    assert -1e-9 <= drawn.low <= min(values) + 1e-9
    assert max(values) - 1e-9 <= drawn.high <= 1 + 1e-9
    assert drawn.high - drawn.low >= span - 1e-9
    places = [place for place, _ in drawn.ticks]
    assert places == sorted(set(places))
    assert (places[0], places[-1]) == (0.0, 1000.0)
    assert 2 <= len(places) <= steps + 3
    told = [float(text.replace("−", "-")) for _, text in drawn.ticks]
    for (place, _), value in zip(drawn.ticks, told, strict=True):
        assert drawn.at(value) == pytest.approx(place, abs=0.2)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
@example(values=[0.0, 2.2e-311])
def test_any_finite_numbers_can_be_drawn(values: list[float]) -> None:
    drawn = axis(values, 500.0, 0.0)
    assert drawn.low < drawn.high
    assert all(0 <= drawn.at(value) <= 500 for value in values)


def test_vertical_axes_run_downwards() -> None:
    drawn = axis([0.0, 0.8], 300.0, 10.0)
    assert drawn.at(0.0) == 300.0
    assert drawn.at(0.8) == 10.0
    assert [text for _, text in drawn.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8"]


def test_bars_and_bands_end_where_the_intervals_do() -> None:
    results = samples.sweep()
    chart = bias_chart(Study(results))
    assert chart is not None
    curve = next(one for one in chart.curves if one.key == "bias")
    for mark, row in zip(curve.marks, results["sweep"], strict=True):
        bias = row["per_occupation_bias"]
        for drawn, end in ((mark.y_low, "low"), (mark.y, "estimate"), (mark.y_high, "high")):
            assert drawn == chart.y.at(bias[end])
            assert f"{mark.x:g},{drawn:g}" in (curve.path if end == "estimate" else curve.band)
