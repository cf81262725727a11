"""A report's content as blocks, and its two forms: Markdown, and one HTML page that needs nothing else.

Goes in: blocks. Comes out: text. `backticks` mark code inside any text; everything else is taken literally,
so that a trial's error message can be shown as it is. HTML embeds the pictures, follows the reader's light or
dark setting, scrolls what is wider than a phone, and forbids itself every request.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list; `is_warning` sets it apart as what the reader must not miss."""

    items: tuple[str, ...]
    is_warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Few large numbers: (label, value, note)."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Table:
    """`align` has one letter per column: r for numbers, l for words on one line, w for words that wrap."""

    header: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG under `figures/`, its dark twin (HTML only), and how to read it."""

    file: str
    title: str
    caption: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Code:
    text: str


Block = Heading | Paragraph | Bullets | Facts | Table | Picture | Code


def literal(text: str) -> str:
    """Text from outside, on one line and without backticks, so that it cannot change the layout."""
    return " ".join(text.split()).replace("`", "'")


# Markdown --------------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_md(text)}"
        case Paragraph(text):
            return _md(text)
        case Bullets(items, is_warning):
            mark = "> - " if is_warning else "- "
            return "\n".join(f"{mark}{_md(item)}" for item in items)
        case Facts(items):
            return "\n".join(
                f"- **{_md(label)}: {_md(value)}** ({_md(note)})" for label, value, note in items
            )
        case Table(header, align, rows):
            rule = tuple({"l": ":--", "w": ":--", "r": "--:"}[letter] for letter in align)
            body = [tuple(_md(cell) for cell in row) for row in (header, *rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in (body[0], rule, *body[1:]))
        case Picture(file, title, caption):
            return f"![{_md(title)}](figures/{file})\n\n{_md(caption)}"
        case Code(text):
            return f"```sh\n{text}\n```"


def _md(text: str) -> str:
    """Escape what Markdown would read as markup; a pipe would end a table's cell even inside code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*<\[])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


# HTML ------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --muted: #5d6675; --line: #e0e4ea;
  --card: #f6f7f9; --accent: #0072b2; --warn: #fff6e5; --warn-line: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e6e9ef; --muted: #9aa4b2;
  --line: #2b323d; --card: #1b212a; --accent: #6bb8ee; --warn: #2b2415; --warn-line: #f0b429; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0.5rem 0 0.75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 0.5rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
li { margin: 0.3rem 0; }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--card); padding: 0.1em 0.3em; border-radius: 4px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem 1rem;
  overflow-x: auto; }
pre code { background: none; padding: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.75rem;
  margin: 1.25rem 0; padding: 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 0.8rem 1rem; }
.facts dt { color: var(--muted); font-size: 0.85rem; }
.facts dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts small { display: block; color: var(--muted); font-size: 0.82rem; font-weight: 400; line-height: 1.35; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 0 8px 8px 0;
  margin: 1.25rem 0; padding: 0.6rem 1rem 0.6rem 2rem; }
.scroll { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 0.42rem 0.8rem 0.42rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
td { white-space: nowrap; }
td.w { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.r { text-align: right; }
figure { margin: 1.25rem 0 1.75rem; }
figure img { display: block; width: 100%; min-width: 40rem; height: auto; }
figcaption { color: var(--muted); font-size: 0.9rem; max-width: 46rem; margin-top: 0.4rem; }
"""

# Nothing outside the page may be fetched and nothing in it may run, whatever a trial's error message says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page; `title` is the window's."""
    body = "\n".join(_html(block) for block in blocks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items, is_warning):
            attribute = ' class="warning"' if is_warning else ""
            return f"<ul{attribute}>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Facts(items):
            return f'<dl class="facts">{"".join(_fact(*item) for item in items)}</dl>'
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _fact(label: str, value: str, note: str) -> str:
    return f"<div><dt>{_inline(label)}</dt><dd>{_inline(value)}<small>{_inline(note)}</small></dd></div>"


_CLASS = {"l": "", "w": ' class="w"', "r": ' class="r"'}


def _table(table: Table) -> str:
    head = _row("th", table.header, table.align)
    body = "\n".join(_row("td", cells, table.align) for cells in table.rows)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _row(tag: str, cells: Sequence[str], align: str) -> str:
    pairs = zip(cells, align, strict=True)
    return "<tr>" + "".join(f"<{tag}{_CLASS[side]}>{_inline(cell)}</{tag}>" for cell, side in pairs) + "</tr>"


def _picture(picture: Picture) -> str:
    return (
        '<figure><div class="scroll"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">'
        f'<img src="{_data(picture.light)}" alt="{html.escape(picture.title)}"></picture></div>'
        f"<figcaption>{_inline(picture.caption)}</figcaption></figure>"
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
