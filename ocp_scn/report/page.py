"""The page of a report: one HTML file that needs no other and no network, and runs no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from ocp_scn.fairchem.files import written_whole

# Whatever a name of a data set may say, a browser loads and runs nothing for this page.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 66rem; background: #fff; color: #1b1f24;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid #d8dee4; font-size: 1.3rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.02rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead, figcaption, .small { color: #57606a; }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 0; padding: 0; }
nav a { padding: .15rem .7rem; border: 1px solid #d8dee4; border-radius: 1rem; color: #0b4f7d;
  text-decoration: none; font-size: .88rem; overflow-wrap: anywhere; }
nav a:hover { background: #eef4f9; }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid #e4e8ec; text-align: left;
  white-space: nowrap; }
th { border-bottom: 1.5px solid #57606a; font-weight: 600; }
td.n, th.n { padding: .32rem 0 .32rem 1.1rem; text-align: right; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 15rem; }
tr.dim td { color: #57606a; }
figure { margin: 1rem 0 1.75rem; }
.panels { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: flex-end; }
.panels img { width: 100%; max-width: 25rem; height: auto; flex: 0 1 auto; }
figcaption { margin-top: .35rem; max-width: 46rem; font-size: .88rem; line-height: 1.45; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem;
  margin: 1rem 0; }
.card { padding: .5rem .6rem .6rem; border: 1px solid #e4e8ec; border-radius: .5rem; font-size: .82rem;
  line-height: 1.4; }
.card img { display: block; width: 100%; height: 9rem; object-fit: contain; margin-bottom: .35rem; }
.card b { overflow-wrap: anywhere; }
.note { padding: .6rem .9rem; border-left: 3px solid #d29922; background: #fff8e6; overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .9rem 1rem; background: #f6f8fa; border-radius: .5rem; }
details { margin: .5rem 0 1rem; }
summary { cursor: pointer; color: #0b4f7d; font-size: .92rem; }
@media (max-width: 30rem) { body { padding: 1rem .9rem 3rem; font-size: 15px; } h1 { font-size: 1.4rem; }
  .panels img { max-width: 100%; }
  table { font-size: .8rem; } th { white-space: normal; vertical-align: bottom; }
  th, td { padding-right: .45rem; } td.n, th.n { padding-left: .45rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .6rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, .card, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
<nav>$links</nav>
</header>
<main>
$sections
</main>
</body>
</html>
""")


class Section:
    """A part of the page: its title and what is added to it. All texts are escaped here."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    @property
    def html(self) -> str:
        """What was added."""
        return "\n".join(self._parts)

    def heading(self, text: str) -> None:
        """Add a heading within the section."""
        self._parts.append(f"<h3>{html.escape(text)}</h3>")

    def text(self, text: str, *, code: str = "") -> None:
        """Add a paragraph, which may end with a command."""
        end = f" <code>{html.escape(code)}</code>" if code else ""
        self._parts.append(f"<p>{html.escape(text)}{end}</p>")

    def note(self, text: str, *, code: str = "") -> None:
        """Add a word on what is missing, with the command that makes it."""
        end = f" <code>{html.escape(code)}</code>" if code else ""
        self._parts.append(f'<p class="note">{html.escape(text)}{end}</p>')

    def figure(self, panels: Sequence[bytes], caption: str, file: str) -> None:
        """Add a figure of PNG panels, side by side where there is room, and the name of its file."""
        images = "".join(_image(panel, caption) for panel in panels)
        files = f"<br><code>{html.escape(file)}</code> (PNG, PDF)"
        self._parts.append(
            f'<figure><div class="panels">{images}</div>'
            f"<figcaption>{html.escape(caption)}{files}</figcaption></figure>"
        )

    def cards(self, images: Sequence[bytes], names: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        """Add small pictures, each with its name and some lines."""
        cards = [
            f'<div class="card">{_image(image, name)}<b>{number}. {html.escape(name)}</b><br>'
            + "<br>".join(map(html.escape, below))
            + "</div>"
            for number, (image, name, below) in enumerate(zip(images, names, lines, strict=True), start=1)
        ]
        self._parts.append(f'<div class="cards">{"".join(cards)}</div>')

    def table(self, head: Sequence[str], lines: Iterable[Sequence[str]], *, texts: int = 1) -> None:
        """Add a table, whose first columns are ``texts`` and whose others are numbers."""
        self._parts.append(_table(head, lines, texts))

    def folded_table(self, title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
        """Add a table that opens when its title is clicked."""
        self._parts.append(
            f"<details><summary>{html.escape(title)}</summary>{_table(head, lines, 1)}</details>"
        )

    def folded_text(self, title: str, text: str) -> None:
        """Add lines that open when their title is clicked."""
        self._parts.append(
            f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
        )


def _image(png: bytes, name: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    def row(kind: str, words: Sequence[str]) -> str:
        cells = [
            f"<{kind}{_cell_class(kind, column, word, texts)}>{html.escape(word)}</{kind}>"
            for column, word in enumerate(words)
        ]
        return "".join(cells)

    body = [
        f'<tr class="dim">{row("td", line)}</tr>' if "trivial" in line else f"<tr>{row('td', line)}</tr>"
        for line in lines
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{row("th", head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell_class(kind: str, column: int, word: str, texts: int) -> str:
    if column >= texts:
        return ' class="n"'
    return ' class="long"' if kind == "td" and len(word) > 30 else ""


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: where it cannot be written.
    """
    links = "".join(
        f'<a href="#section-{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections, start=1)
    )
    text = _PAGE.substitute(
        title=html.escape(title),
        lead=html.escape(lead),
        links=links,
        sections="\n".join(
            f'<section id="section-{number}"><h2>{html.escape(section.title)}</h2>\n{section.html}</section>'
            for number, section in enumerate(sections, start=1)
        ),
    )
    with written_whole(path) as part:
        # Names may have halves of surrogate pairs, which are no text in UTF-8.
        part.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
