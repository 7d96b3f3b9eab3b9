"""What a page is made of: sections with paragraphs, plots and tables, which any room can hand over."""

from dataclasses import dataclass

from okr.pages import markdown


@dataclass(frozen=True)
class Table:
    """A table as text: ``caption`` says what the numbers are and what they were measured on."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table alone, without title and caption; its text is no markup."""
        return markdown.table(
            [markdown.cell(name) for name in self.header],
            [[markdown.cell(value) for value in row] for row in self.rows],
        )


@dataclass(frozen=True)
class Plot:
    """An SVG element and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One heading of a page and what is below it."""

    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
