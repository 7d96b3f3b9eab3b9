"""Reports as files: JUnit for continuous integration, HTML to read, a badge to show."""

from html import escape
from xml.etree import ElementTree

from spec.report.screen import failure_text
from spec.report.summary import CONFORMS, Report

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;
vertical-align:top}.pass{color:#17692b}.bad{color:#a3161f;font-weight:600}.other{color:#666}
pre{background:#f5f5f5;padding:.7rem;overflow-x:auto;font-size:12px}"""


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
            suite, "testcase", classname=result.clause.chapter, name=result.clause.id, time=f"{result.seconds:.3f}"
        )
        if result.failed:
            text = failure_text(result, report.implementation)
            ElementTree.SubElement(case, "failure", type=result.verdict, message=result.known).text = text
        elif result.verdict == "not applicable":
            ElementTree.SubElement(case, "skipped", message=result.note)
        elif result.verdict != "pass":
            ElementTree.SubElement(case, "error", type=result.verdict, message=result.note)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def html(report: Report) -> str:
    """One page without scripts or anything from elsewhere."""
    rows = []
    for result in report.results:
        kind = {"pass": "pass", "not applicable": "other"}.get(result.verdict, "bad")
        detail = f"<pre>{escape(failure_text(result, report.implementation))}</pre>" if result.failure else ""
        rows.append(
            f"<tr id='{result.clause.id}'><td>{result.clause.id}</td><td class='{kind}'>{result.verdict}</td>"
            f"<td>{escape(result.clause.statement)}{' ' + escape(result.note) if result.note else ''}{detail}</td></tr>"
        )
    title = f"OKR conformance of {escape(report.implementation)}"
    verdict = "conforms" if report.exit_code == CONFORMS else "does not conform"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{verdict}: {report.passed} of {len(report.applicable)} applicable clauses pass, "
        f"profile {report.profile}.</p><table><tr><th>clause</th><th>verdict</th><th>requirement</th></tr>"
        f"{''.join(rows)}</table></html>\n"
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
