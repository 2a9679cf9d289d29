"""The report: one HTML file made from `results.json` alone, verdicts first.

    from frontload.study.report import write_report
    write_report(results, run / "report.html")

Guarantees: no network, no script, no file beside it; readable at phone width, in print, in light
and dark, and without telling colors apart (signs, words and markers say the same).
"""

from frontload.study.report.render import write_report

__all__ = ["write_report"]
