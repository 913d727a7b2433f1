"""`report.html` from `results.json`: `page` renders, `quality` and `conditions` say what each section holds."""

from archlab.compare.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
