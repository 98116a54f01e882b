"""What commands return: dicts that a notebook shows."""

from __future__ import annotations

from html import escape
from typing import Any, Dict, List, Optional

#: Rows of a table that are shown, values of a list in one cell, characters of a text.
_MOST_ROWS = 50
_MOST_VALUES = 12
_MOST_TEXT = 200
_HASH = "sha256:"


class Result(Dict[str, Any]):
    """What `--json` prints, as a dict. A notebook shows the report's page where the command has one, else tables."""

    #: HTML, of `compare`, `pilot` and `tune`; a whole document that needs no network.
    page: Optional[str] = None

    def _repr_html_(self) -> str:
        if self.page is not None:
            return (f'<iframe srcdoc="{escape(self.page)}" style="width: 100%; height: 45rem; border: 0" '
                    'title="swiftprune report"></iframe>')
        return _html(self)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, (dict, list)):
        text = str(value)
        return text[:len(_HASH) + 12] + "…" if text.startswith(_HASH) else text  # a row of digits widens tables
    inner = list(value.values()) if isinstance(value, dict) else value
    if len(inner) > _MOST_VALUES or any(isinstance(one, (dict, list)) for one in inner):
        return f"{len(value)} {'values' if isinstance(value, list) else 'members'}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return ", ".join(_text(one) for one in value)


def _cell(value: Any) -> str:
    text = _text(value)
    if len(text) > _MOST_TEXT:
        text = text[:_MOST_TEXT] + "…"
    return f"<td>{escape(text)}</td>"


def _rows(rows: List[Dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(row.get(name, "")) for name in columns) + "</tr>"
                   for row in rows[:_MOST_ROWS])
    more = f"<p>{len(rows) - _MOST_ROWS} more rows</p>" if len(rows) > _MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _html(values: Dict[str, Any]) -> str:
    plain = "".join(f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in values.items()
                    if not _is_table(value))
    tables = "".join(f"<h4>{escape(name)}</h4>{_rows(value)}" for name, value in values.items() if _is_table(value))
    return (f"<table>{plain}</table>" if plain else "") + tables
