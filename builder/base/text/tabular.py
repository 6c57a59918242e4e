"""A result's rows → a pandas.DataFrame, where pandas is there, and a table for notebooks, escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.text.shown import visible, without_secrets

if TYPE_CHECKING:
    import pandas

_SHOWN_ROWS = 100


class Tabular:
    """A result that is read as a table: those that have rows and a caption have the rest from here."""

    __slots__ = ()

    def caption(self) -> str:
        """The result in one sentence."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """One flat mapping a row, plain values in the units that the names of the columns say."""
        raise NotImplementedError

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a pandas.DataFrame; ToolError `pandas_missing` where pandas is not installed."""
        return frame_of(self.rows())

    def _repr_html_(self) -> str:
        """What a notebook shows: the caption and the first rows. Whatever others wrote in them is text."""
        return html_of(self.caption(), self.rows())


def frame_of(data: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> pandas.DataFrame:
    """Rows, or columns by name → pandas.DataFrame; ToolError `pandas_missing` where pandas is not installed."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ToolError(
            "a data frame needs pandas, which is not installed",
            code="pandas_missing",
            fix="pip install pandas; rows() has the same as plain values",
        ) from None
    return pandas.DataFrame(data)


def html_of(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A caption and a table of the columns that some row has a value in; nanoseconds are shown as milliseconds."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value not in (None, ""))
    head = "".join(f"<th>{_text(_heading(name))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(_shown(name, row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:_SHOWN_ROWS]
    )
    more = len(rows) - _SHOWN_ROWS
    left_out = f"<p>{more} more rows: to_frame() has all</p>" if more > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div><p>{_text(caption)}</p>{table}{left_out}</div>"


def _text(value: str) -> str:
    return escape(visible(without_secrets(value)))


def _heading(name: str) -> str:
    return f"{name.removesuffix('_ns')}_ms" if name.endswith("_ns") else name


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (
            f"{value / 1e6:.4g}"
            if name.endswith("_ns")
            else f"{value:.6g}"
            if isinstance(value, float)
            else f"{value:,}"
        )
    return str(value)
