"""How numbers are written, the same in the page, the card and the terminal."""

from __future__ import annotations

from equipoise.report.view import Metric

MISSING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign, or a dash for a missing one."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign, no sign at zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text) != 0 else text


def strength(value: float) -> str:
    """A strength with as few digits as it needs: 0, 0.4, 0.375, −0.5."""
    return number(value).rstrip("0").rstrip(".")


def digits(metric: Metric) -> int:
    """Decimals a metric is written with."""
    return 2 if metric.perplexity else 3


def estimate(metric: Metric | None) -> str:
    """The point estimate alone."""
    return MISSING if metric is None else number(metric.estimate, digits(metric))


def interval(metric: Metric | None) -> str:
    """The interval alone, empty where there is none."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    places = digits(metric)
    return f"[{number(metric.low, places)}, {number(metric.high, places)}]"


def with_interval(metric: Metric | None) -> str:
    """Estimate and interval: ``0.021 [0.000, 0.043]``."""
    return f"{estimate(metric)} {interval(metric)}".strip()


def plug_in(metric: Metric | None) -> str:
    """What a bias is to be held against: ``plug-in 0.038, at parity 0.020``; empty if untold.

    A line breaks after the comma only.
    """
    level = None if metric is None else metric.number("parity")
    if metric is None or level is None:
        return ""
    known = [("plug-in", metric.number("plug_in")), ("at\u00a0parity", level)]
    return ", ".join(f"{name}\u00a0{number(v)}" for name, v in known if v is not None)


def p_value(value: float) -> str:
    """A p-value as a statement: ``p = 0.21``, ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def listing(names: list[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
