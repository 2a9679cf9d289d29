"""Draw the README's figure from a finished run.

    python docs/figures/draw.py runs/quickstart/results.json docs/figures/quickstart.svg

The panels are the report's own, here side by side on white, in the page's light colors.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import frontload.study.report as report
from frontload.study.report.figures import score_panels
from frontload.study.results import read_results

SHOWN = ("own", "breadth")


def main(results: Path, target: Path) -> None:
    """Set the accuracy panels of the benchmarks in `SHOWN` side by side."""
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    colors = dict(re.findall(r"--([\w-]+):\s*([^;]+);", style.split("@media")[0]))
    every = score_panels(read_results(results), ["accuracy"])
    panels = [panel for panel in every if any(f"{name}" in panel[:400] for name in SHOWN)]
    across, tallest, parts = 0.0, 0.0, []
    for panel in panels:
        box = re.search(r'viewBox="0 0 (\S+) (\S+)"', panel)
        assert box is not None
        width, height = float(box[1]), float(box[2])
        placed = f'<svg x="{across}" width="{width}" height="{height}" '
        parts.append(panel.replace('<svg class="panel" ', placed, 1))
        across, tallest = across + width + 12, max(tallest, height)
    sheet = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {tallest}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )
    sheet = re.sub(r"var\(--([\w-]+)\)", lambda found: colors[found[1]], sheet)
    target.write_text(
        sheet.replace('"Segoe UI"', "Segoe UI").replace('"Helvetica Neue"', "Helvetica")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
