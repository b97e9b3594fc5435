"""The protocol as JSON Schema and as tables for people, both made from the message classes.

    python -m terrella.serving.schema docs     # writes docs/protocol.schema.json and the tables of docs/protocol.md

What the schema cannot say: a whole number is written without a decimal point, a message has at most
`Limits.message_bytes` bytes, and a row has as many numbers as the world's actions have.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from ..errors import ServingError
from ..files import atomic
from .limits import Limits
from .protocol import ANSWERS, BOUNDS, MESSAGES, PROTOCOL, TEXTS

PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
EITHER = {"action": ("row", "text")}  # fields of which one at most is given


def schema() -> dict[str, Any]:
    """Describe all messages as one JSON Schema (2020-12): `$defs/client` and `$defs/server`, and one for each type."""
    defs: dict[str, Any] = {}
    for side, kinds in (("client", MESSAGES), ("server", ANSWERS)):
        for name, kind in kinds.items():
            defs[name] = _message(name, kind, defs, bounded=side == "client")
        defs[side] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Terrella, protocol {PROTOCOL}: text messages",
        "anyOf": [{"$ref": "#/$defs/client"}, {"$ref": "#/$defs/server"}],
        "$defs": defs,
    }


def tables(kinds: dict[str, type]) -> str:
    """Describe messages in Markdown: what each is for and its fields, from the classes and their docstrings."""
    text = []
    for name, kind in kinds.items():
        text += [f"**`{name}`** {_about(kind)}", ""]
        rows = [_row(f, hint, bounded=kinds is MESSAGES) for f, hint in _fields(kind)]
        text += ["| field | type | default |", "|---|---|---|", *rows, ""]
    return "\n".join(text)


def write(folder: str | Path) -> None:
    """Write the schema and the tables of `protocol.md` in a folder anew; raises `ServingError` where a mark lacks."""
    with atomic(Path(folder) / "protocol.schema.json") as path:
        path.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
    page = Path(folder) / "protocol.md"
    text = page.read_text(encoding="utf-8")
    for side, kinds in (("client", MESSAGES), ("server", ANSWERS)):
        mark = re.compile(rf"(<!-- {side} -->\n).*?(<!-- end -->)", re.S)
        if not mark.search(text):
            raise ServingError(
                f"{page} has no '<!-- {side} -->' ... '<!-- end -->'; put the marks where tables belong."
            )
        text = mark.sub(lambda found, kinds=kinds: found[1] + tables(kinds) + found[2], text)
    with atomic(page) as path:
        path.write_text(text, encoding="utf-8")


def _fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _message(name: str, kind: type, defs: dict[str, Any], *, bounded: bool) -> dict[str, Any]:
    """One message or part of one; what clients send has bounds and no other fields."""
    properties: dict[str, Any] = {"type": {"const": name}} if name else {}
    for field, hint in _fields(kind):
        properties[field.name] = _hint(hint, defs, field.name if bounded else "")
    found: dict[str, Any] = {"type": "object", "description": _about(kind), "properties": properties}
    required = [f.name for f in dataclasses.fields(kind) if not bounded or f.default is dataclasses.MISSING]
    found["required"] = [*(["type"] if name else []), *required]
    if bounded:
        found["additionalProperties"] = False
    if bounded and name in EITHER:
        found["anyOf"] = [{"properties": {other: {"type": "null"}}} for other in EITHER[name]]
    return found


def _hint(hint: Any, defs: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a type; `name` is that of a client's field, which has bounds, or empty."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_hint(option, defs, name) for option in args]}
    if origin is tuple:
        return {"type": "array", "items": _hint(args[0], defs, "")}
    if origin is dict or hint is Any:
        return {"type": "object"} if origin is dict else {}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        defs[hint.__name__] = _message("", hint, defs, bounded=False)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    found: dict[str, Any] = {"type": PLAIN[hint]}
    if hint is float and not name:  # numbers that JSON lacks become null
        found["type"] = ["number", "null"]
    if name in BOUNDS and hint in (int, float):
        found["minimum"], found["maximum"] = BOUNDS[name]
    if name in TEXTS and hint is str:
        found["maxLength"] = Limits.text
    return found


def _row(field: dataclasses.Field[Any], hint: Any, *, bounded: bool) -> str:
    said = "" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default)}`"
    kind = re.sub(r"\s*\|\s*", " or ", _name(hint))
    if bounded and field.name in BOUNDS:
        low, high = BOUNDS[field.name]
        kind += f", {low} to {high}"
    if bounded and field.name in TEXTS:
        kind += f", at most {Limits.text} characters"
    return f"| `{field.name}` | {kind} | {said} |"


def _name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(option) for option in args)
    if origin is tuple:
        return f"list of {_name(args[0])}s"
    if origin is dict:
        return "object"
    return PLAIN.get(hint, f"object `{hint.__name__}`")


def _about(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else "docs")
