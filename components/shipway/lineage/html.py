"""Self-contained HTML pages for reports: inline style, no scripts, no network."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root{--ink:#1c2733;--soft:#5d6b7a;--line:#e3e8ee;--ok:#1a7f4b;--bad:#b3261e;--info:#245ea8;--bg:#f6f8fa}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
body{color:var(--ink);background:var(--bg);margin:0}
main{max-width:1080px;margin:0 auto;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:28px 0 8px}
.lead{color:var(--soft);margin:0 0 20px}
.badge{display:inline-block;padding:2px 10px;border-radius:12px;color:#fff;font-size:13px}
.badge{vertical-align:middle;margin-left:8px}
.ok{background:var(--ok)}.bad{background:var(--bad)}.info{background:var(--info)}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line);border-radius:6px}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word}
th{font-weight:600;color:var(--soft);font-size:13px;background:#fbfcfd}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.passed{color:var(--ok);font-weight:600}.failed{color:var(--bad);font-weight:600}
code,pre{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:13px}
pre{background:#fff;border:1px solid var(--line);border-radius:6px;padding:12px;overflow:auto;white-space:pre-wrap}
a{color:var(--info)}svg{max-width:100%;height:auto}
"""


class Markup(str):
    """Text that is HTML already and is not escaped again."""


def text(value: Any) -> Markup:
    """Returns a value as escaped HTML; floats get four significant decimals."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return Markup(f"{value:.4f}")
    return Markup(html.escape("" if value is None else str(value)))


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """Returns an HTML table; numbers are set right-aligned, every value that is no Markup is escaped.

    Args:
        headers: Column names; without any name there is no header row.
        rows: The cells.
    """
    cells = [list(row) for row in rows]
    first = cells[0] if cells else [""] * len(headers)
    names = "".join(_cell(name, "th", _is_number(value)) for name, value in zip(headers, first, strict=False))
    head = f"<thead><tr>{names}</tr></thead>" if any(headers) else ""
    body = "".join("<tr>" + "".join(_cell(value, "td", _is_number(value)) for value in row) + "</tr>" for row in cells)
    return Markup(f"<table>{head}<tbody>{body}</tbody></table>")


def verdict(passed: bool, yes: str = "passed", no: str = "failed") -> Markup:
    """Returns a coloured word for a verdict."""
    return Markup(f'<span class="{"passed" if passed else "failed"}">{html.escape(yes if passed else no)}</span>')


def section(title: str, *body: str) -> Markup:
    """Returns a headed section; `body` is HTML."""
    return Markup(f"<section><h2>{html.escape(title)}</h2>{''.join(body)}</section>")


def page(title: str, body: str, status: str = "info", badge: str = "", lead: str = "") -> str:
    """Returns a whole HTML page.

    Args:
        title: Heading and window title, plain text.
        body: HTML.
        status: Colour of the badge: `ok`, `bad` or `info`.
        badge: A word beside the heading; none when empty.
        lead: One plain line under the heading.
    """
    mark = f'<span class="badge {status}">{html.escape(badge)}</span>' if badge else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{html.escape(title)}{mark}</h1><p class="lead">{html.escape(lead)}</p>{body}</main></body></html>\n'
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any, tag: str, number: bool) -> str:
    kind = ' class="number"' if number else ""
    return f"<{tag}{kind}>{text(value)}</{tag}>"
