"""What comes out: figures with their targets, as a table, as JSON, and in docs/performance.md."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sink import Comparison

BEGIN = "<!-- table: begin (written by python -m benchmarks --write-docs) -->"
END = "<!-- table: end -->"
BEGIN_STORAGES = "<!-- storages: begin (written by make bench STORAGE=... ARGS=--write-docs) -->"
END_STORAGES = "<!-- storages: end -->"


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number. With ``at_least`` or ``at_most`` it has a target."""

    name: str
    value: float
    """NaN when there was nothing to measure: reaches nothing."""
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)

    def as_dict(self) -> dict[str, Any]:
        value = None if math.isnan(self.value) else self.value  # JSON has no NaN
        return dataclasses.asdict(self) | {"value": value, "reached": self.reached}

    def text(self) -> str:
        return " ".join(filter(None, (self.name, number(self.value), self.unit)))

    def target(self) -> str | None:
        if self.at_least is None and self.at_most is None:
            return None
        bound = f">= {number(self.at_least)}" if self.at_least is not None else f"<= {number(self.at_most or 0)}"
        return " ".join(filter(None, (self.name, bound, self.unit)))


@dataclasses.dataclass
class Figure:
    """One row of the table."""

    title: str
    measures: Sequence[Measure]
    counts: Comparison | None = None
    """What the generator had accepted against what the sink got, summed over all runs of this figure."""
    faults: Sequence[str] = ()
    """Replies that were not as they should be: with any of them the figure is worth nothing."""
    seconds: float = 0.0
    """How long it took to make."""

    @property
    def reached(self) -> bool:
        return self.valid and all(measure.reached for measure in self.measures)

    @property
    def valid(self) -> bool:
        return not self.faults and (self.counts is None or self.counts.agrees)

    def verdict(self) -> str:
        if not self.valid:
            return "INVALID"
        return "yes" if self.reached else "no"

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "measures": [measure.as_dict() for measure in self.measures],
            "counts": None if self.counts is None else dataclasses.asdict(self.counts),
            "faults": list(self.faults)[:20],
            "valid": self.valid,
            "reached": self.reached,
            "seconds": round(self.seconds, 1),
        }


def total(comparisons: Sequence[Comparison]) -> Comparison:
    return Comparison(*(sum(column) for column in zip(*map(dataclasses.astuple, comparisons), strict=True)))


def number(value: float) -> str:
    """Three digits that matter, thousands parted; a dash for NaN."""
    if math.isnan(value):
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def rows(figures: Sequence[Figure]) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            figure.title,
            ", ".join(filter(None, (measure.target() for measure in figure.measures))),
            ", ".join(measure.text() for measure in figure.measures),
            figure.verdict(),
            f"{figure.seconds:.0f} s",
        )
        for figure in figures
    ]


HEADINGS = ("figure", "reach", "measured", "reached", "took")


def table(figures: Sequence[Figure], widths: Sequence[int] = (36, 34, 40, 7, 6)) -> str:
    """For a terminal, cells wrapped."""
    lines = []
    for row in (HEADINGS, tuple("-" * width for width in widths), *rows(figures)):
        cells = [textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, cells))):
            texts = (cell[line] if line < len(cell) else "" for cell in cells)
            lines.append("  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip())
    return "\n".join(lines)


def compared_rows(made: Mapping[str, Sequence[Figure]]) -> list[tuple[str, ...]]:
    """A row for each measure, with what each storage made of it; in brackets what it should have reached and has not."""
    lines: list[tuple[str, ...]] = [("figure", *made)]
    for figures in zip(*made.values(), strict=True):
        for measures in zip(*(figure.measures for figure in figures), strict=True):
            name = " ".join(filter(None, (measures[0].name, f"({measures[0].unit})" if measures[0].unit else "")))
            cells = (_compared(figure, measure) for figure, measure in zip(figures, measures, strict=True))
            lines.append((f"{figures[0].title}: {name}", *cells))
    return lines


def _compared(figure: Figure, measure: Measure) -> str:
    if not figure.valid:
        return "INVALID"
    bound = measure.at_most if measure.at_least is None else measure.at_least
    return number(measure.value) + ("" if measure.reached or bound is None else f" (reach: {number(bound)})")


def compared(made: Mapping[str, Sequence[Figure]]) -> str:
    """For a terminal."""
    lines = compared_rows(made)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def complaints(figures: Sequence[Figure]) -> list[str]:
    """A line for each figure whose counts or replies are wrong."""
    lines = []
    for figure in figures:
        if figure.counts is not None and not figure.counts.agrees:
            counts = figure.counts
            lines.append(
                f"{figure.title}: {counts.expected} deliveries expected, {counts.arrived} requests arrived, "
                f"{counts.missing} missing, {counts.unknown} of unknown messages, {counts.duplicates} twice"
            )
        if figure.faults:
            lines.append(f"{figure.title}: {len(figure.faults)} wrong replies, the first: {figure.faults[0]}")
    return lines


def document(made: Mapping[str, Sequence[Figure]], machine: Mapping[str, object], made_at: str, quick: bool) -> dict[str, Any]:
    return {
        "made_at": made_at,
        "quick": quick,
        "machine": dict(machine),
        "figures": {storage: [figure.as_dict() for figure in figures] for storage, figures in made.items()},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def machine_text(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {machine['kernel']}, "
        f"{machine['file_system']} (4 KiB on disk in {machine['fsync_ms']} ms), {machine['python']}, "
        f"SQLite {machine['sqlite']}, libcurl {machine['libcurl']}, {packages}"
    )


def write_docs(
    path: Path, made: Mapping[str, Sequence[Figure]], machine: Mapping[str, object], made_at: str, *, by_storage: bool
) -> None:
    """Replace what stands between the markers; the text around them, with the reasons for what is missed, is kept."""
    if by_storage:
        begin, end, cells = BEGIN_STORAGES, END_STORAGES, compared_rows(made)
    else:
        begin, end = BEGIN, END
        cells = [HEADINGS, *(row for figures in made.values() for row in rows(figures))]
    lines = ["| " + " | ".join(row) + " |" for row in (cells[0], ("---",) * len(cells[0]), *cells[1:])]
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    revision = f", revision {machine['revision']}" if machine["revision"] else ""
    text = f"Made {made_at}{revision}, on {machine_text(machine)}."
    path.write_text(before + "\n".join([begin, "", *textwrap.wrap(text, 128), "", *lines, "", end]) + after)
