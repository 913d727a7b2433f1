"""Which column plays which role. Wrong columns are always an error: no row could be read, so there is none to skip."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from archlab.errors import UserError

ROLES = ("image", "text", "question", "answer", "kind", "split", "group", "id")

# What others call the same thing: proposed when a role is missing, never assumed.
_SYNONYMS = {
    "image": ("file_name", "img", "jpg", "png", "image_bytes", "picture", "path", "image_path"),
    "text": ("caption", "captions", "txt", "alt", "alt_text", "description", "sentence", "title", "label", "name"),
    "question": ("query", "prompt", "instruction"),
    "answer": ("answers", "response", "reply", "label"),
}


def resolve(
    found: Iterable[str], mapping: Mapping[str, str], place: str, defaults: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Role -> column for the roles that the data fills.

    Args:
        found: columns of the data.
        mapping: role -> column as configured in `data.pairs.columns`; the other roles are looked up by `defaults`.
        place: what messages call the data.
        defaults: role -> column where the format has names of its own; a role is otherwise its own column.

    Raises:
        UserError: an unknown role, a column that is not there, no image, or neither text nor question and answer.
    """
    found = list(found)
    columns = {}
    for role, column in mapping.items():
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1, cutoff=0.0)[0]
            raise UserError(f"data.pairs.columns: role {role!r} is unknown; did you mean {near!r}?")
        if column not in found:
            raise UserError(
                f"{place}: has no column {column!r}, which data.pairs.columns gives for {role!r}; "
                f"{_listed(found)}{_hint((role,), found)}"
            )
    for role in ROLES:
        column = mapping.get(role) or (defaults or {}).get(role, role)
        if column in found:
            columns[role] = column
    if "image" not in columns:
        missing: tuple[str, ...] = ("image",)
    elif "text" in columns or ("question" in columns and "answer" in columns):
        return columns
    else:
        missing = tuple(role for role in ("question", "answer") if role not in columns)
        missing = ("text",) if len(missing) == 2 else missing
    wanted = "'text', or 'question' and 'answer'" if missing == ("text",) else " and ".join(map(repr, missing))
    raise UserError(f"{place}: has no column for {wanted}; {_listed(found)}{_hint(missing, found)}")


def _listed(found: list[str]) -> str:
    return f"it has {', '.join(found) or 'no columns'}"


def _hint(roles: tuple[str, ...], found: list[str]) -> str:
    """A mapping that would work, from the columns that are there."""
    proposal = {}
    for role in roles:
        lower = {column.lower(): column for column in found}
        known = [lower[name] for name in _SYNONYMS.get(role, ()) if name in lower]
        near = known or difflib.get_close_matches(role, found, n=1, cutoff=0.6)
        proposal[role] = near[0] if near else "COLUMN"
    mapping = ", ".join(f"{role}: {column}" for role, column in proposal.items())
    return f"; name it with data.pairs.columns={{{mapping}}}"
