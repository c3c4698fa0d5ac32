"""Tables for a paper: one table, written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

# What LaTeX does not take as it stands.
_LATEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "σ": r"$\sigma$", "α": r"$\alpha$", "ℓ": r"$\ell$", "≥": r"$\geq$", "≤": r"$\leq$",
    "–": "--", "−": "$-$", "×": r"$\times$", "†": r"$\dagger$", "…": r"\dots{}",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table as text.

    Attributes:
        name: of its files, without a suffix.
        title: one line.
        header: of the columns.
        rows: cells, as many in each row as columns.
        left: how many columns from the left hold words; the others hold numbers.
        note: what a reader has to know, in a sentence or two.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    note: str = ""

    def markdown(self) -> str:
        """With a heading and the note."""
        align = ["---" if j < self.left else "--:" for j in range(len(self.header))]
        lines = [self.header, align, *self.rows]
        body = "\n".join("| " + " | ".join(map(_in_markdown, line)) + " |" for line in lines)
        note = f"{self.note}\n\n" if self.note else ""
        return f"## {self.title}\n\n{note}{body}\n"

    def csv(self) -> str:
        """The cells."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([self.header, *self.rows])
        return stream.getvalue()

    def latex(self) -> str:
        """A table environment that needs the package booktabs."""
        align = "l" * self.left + "r" * (len(self.header) - self.left)
        rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in [self.header, *self.rows]]
        caption = _in_latex(f"{self.title}. {self.note}".strip())
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \label{{tab:{self.name}}}",
                rf"  \begin{{tabular}}{{{align}}}",
                r"    \toprule",
                f"    {rows[0]}",
                r"    \midrule",
                *(f"    {row}" for row in rows[1:]),
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def _in_markdown(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def _in_latex(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in cell)
