"""Defines the parts of a page: sections with paragraphs, plots and tables. Every room builds its pages of these."""

from dataclasses import dataclass

from okr.pages import markdown


@dataclass(frozen=True)
class Table:
    """A table of text. ``caption`` says what the numbers are and what they were measured on."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, without title and caption. Its cells are escaped."""
        return markdown.table(
            [markdown.cell(name) for name in self.header],
            [[markdown.cell(value) for value in row] for row in self.rows],
        )


@dataclass(frozen=True)
class Plot:
    """A plot: an SVG element, and a caption that says what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading of a page, and the paragraphs, plots and tables below it."""

    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
