"""Tables are written in Markdown here, and put between the marks of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Make a table whose first column holds the rows' names; the others are aligned to the right."""
    return rows_table(head, ([name, *cells] for name, cells in rows.items()), names=1)


def rows_table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 2) -> str:
    """Make a table whose first ``names`` columns are aligned to the left, the others to the right."""
    marks = [*["---"] * names, *["---:"] * (len(head) - names)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *rows))


def filled(page: str, name: str, text: str) -> str:
    """Return the page with ``text`` between its marks of this name.

    Raises:
        ValueError: the page lacks the marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page must hold {begin} and {end}")
    return f"{before}{begin}\n{text}{end}{after}"


def appendix(title: str, page: str, page_title: str, *texts: str) -> str:
    """Return a generated page of the long tables that another page, given by its file and title, explains."""
    link = f"This is the appendix of [{page_title}]({page}), which explains it. `make docs` generates it.\n"
    return "\n".join((f"# {title}\n", link, *texts))
