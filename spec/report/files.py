"""Reports as files: JUnit for continuous integration, HTML to read, a badge to show."""

import re
from html import escape
from xml.etree import ElementTree

from ..runner import Result
from .screen import failure_text
from .summary import CONFORMS, Report

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;
vertical-align:top}td:first-child{white-space:nowrap}.pass{color:#17692b}.bad{color:#a3161f;font-weight:600}
.other,.note{color:#666}pre{background:#f5f5f5;padding:.7rem;overflow-x:auto;font-size:12px;max-width:46rem}
code{background:#f5f5f5}h2{font-size:1.1rem;margin:2rem 0 .3rem}"""


def junit(report: Report) -> str:
    """JUnit XML, one test case a clause."""
    failed = sum(r.failed for r in report.results)
    errors = sum(r.verdict in ("unsupported", "suite error") for r in report.results)
    suite = ElementTree.Element(
        "testsuite",
        name=f"okr-conformance {report.implementation}",
        tests=str(len(report.results)),
        failures=str(failed),
        errors=str(errors),
        skipped=str(len(report.results) - len(report.applicable)),
    )
    for result in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=result.clause.title, name=result.clause.id, time=f"{result.seconds:.3f}"
        )
        if result.failed:
            text = failure_text(result, report.implementation)
            what = result.failure.what if result.failure else ""
            message = f"known failure, {result.known}: {what}" if result.known else what
            ElementTree.SubElement(case, "failure", type=result.verdict, message=message).text = text
        elif result.verdict == "not applicable":
            ElementTree.SubElement(case, "skipped", message=result.note)
        elif result.verdict != "pass":
            ElementTree.SubElement(case, "error", type=result.verdict, message=result.note)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def html(report: Report) -> str:
    """One page without scripts or anything from elsewhere: what failed first, then every clause."""
    title = f"OKR conformance of {escape(report.implementation)}"
    verdict = "conforms" if report.exit_code == CONFORMS else "does not conform"
    wrong = [r for r in report.applicable if r.verdict != "pass"]
    links = ", ".join(f"<a href='#{r.clause.id}'>{r.clause.id}</a> {r.verdict}" for r in wrong)
    chapters = dict.fromkeys(result.clause.title for result in report.results)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p><b class='{'pass' if verdict == 'conforms' else 'bad'}'>{verdict}</b>: {report.passed} of "
        f"{len(report.applicable)} applicable clauses pass, profile {report.profile}.</p>"
        f"{f'<p>{links}</p>' if wrong else ''}{''.join(_chapter(report, title) for title in chapters)}</html>\n"
    )


def _chapter(report: Report, title: str) -> str:
    results = [result for result in report.results if result.clause.title == title]
    applicable = [result for result in results if result.verdict != "not applicable"]
    if not applicable:
        return f"<h2>{escape(title)}</h2><p class='note'>not applicable: {escape(results[0].note)}</p>"
    passed = sum(result.verdict == "pass" for result in results)
    rows = "".join(_row(result, report.implementation) for result in results)
    return (
        f"<h2>{escape(title)}: {passed} of {len(applicable)}</h2>"
        f"<table><tr><th>clause</th><th>verdict</th><th>requirement</th></tr>{rows}</table>"
    )


def _row(result: Result, implementation: str) -> str:
    kind = {"pass": "pass", "not applicable": "other"}.get(result.verdict, "bad")
    statement = re.sub("`([^`]*)`", r"<code>\1</code>", escape(result.clause.statement))
    notes = [result.note, f"known failure: {result.known}" if result.known else ""]
    note = "".join(f"<br><span class='note'>{escape(part)}</span>" for part in notes if part)
    detail = f"<pre>{escape(failure_text(result, implementation))}</pre>" if result.failure else ""
    return (
        f"<tr id='{result.clause.id}'><td>{result.clause.id}</td><td class='{kind}'>{result.verdict}</td>"
        f"<td>{result.clause.keyword}: {statement}{note}{detail}</td></tr>"
    )


def badge(report: Report) -> str:
    """An SVG badge: clauses passed of clauses applicable."""
    text = f"{report.passed}/{len(report.applicable)}"
    colour = "#2f8f4e" if report.as_dict()["conforms"] else "#c0392b"
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' width='130' height='20' role='img' "
        f"aria-label='OKR conformance {text}'><rect width='80' height='20' fill='#555'/>"
        f"<rect x='80' width='50' height='20' fill='{colour}'/><g fill='#fff' font-family='Verdana,sans-serif' "
        f"font-size='11'><text x='8' y='14'>OKR spec</text><text x='88' y='14'>{text}</text></g></svg>\n"
    )
