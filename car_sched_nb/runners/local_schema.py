"""JSON schemas as llama.cpp's grammar takes them, bounded, so that what has to fit one always ends.

What a grammar cannot hold (`uniqueItems`, a look-ahead in a pattern) is left out here: pydantic checks it afterwards,
and asks again. A keyword that the grammar does not know would silently free the model of the whole schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from car_sched_nb.errors import InvalidInput

Schema = dict[str, Any]

TEXT = 300
"""Characters of a text whose length the schema leaves open."""

ITEMS = 20
"""Items of a list, and keys of a mapping, whose number the schema leaves open."""

WHOLE = 10**15

_PLAIN = frozenset(
    "type enum const required minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "minItems maxItems minProperties maxProperties $ref".split()
)
_ONE = frozenset({"items"})
_MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "$defs"})
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
_NO_FREE_TEXT = frozenset({"enum", "const", "$ref", "anyOf", "oneOf", "allOf"})
_SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(schema: Schema) -> str:
    """Return llama.cpp's grammar of a schema, in which no space can be repeated for ever."""
    return "%llguidance {}\nstart: %json " + json.dumps(schema | {"x-guidance": _SPACES})


def bounded(schema: Mapping[str, Any], name: str) -> Schema:
    """Return a schema with what the grammar knows, and with an end; `name` is whose it is, for the error.

    Raises
    ------
    InvalidInput
        When nothing fits it: an empty enum, a reference to nothing.
    """
    known = set(schema.get("$defs", ()))
    return _bounded(schema, name, known)


def _bounded(schema: Mapping[str, Any] | bool, name: str, known: set[str]) -> Schema:
    if not isinstance(schema, Mapping) or not (schema.keys() - {"title", "description", "default", "examples"}):
        return {"anyOf": [{"type": "string", "maxLength": TEXT}, _number("number"), {"type": ["boolean", "null"]}]}
    found: Schema = {key: value for key, value in schema.items() if key in _PLAIN}
    for key, value in schema.items():
        if key in _ONE:
            found[key] = _bounded(value, name, known)
        elif key in _MANY:
            found[key] = [_bounded(one, name, known) for one in value]
        elif key in _NAMED:
            found[key] = {one: _bounded(its, name, known) for one, its in value.items()}
    _check(found, name, known)
    if found.get("format", schema.get("format")) in _FORMATS:
        found["format"] = schema["format"]
    if _is_simple(str(schema.get("pattern", "(?"))):
        found["pattern"] = schema["pattern"]
    return _ended(found, schema, name, known)


def _check(found: Schema, name: str, known: set[str]) -> None:
    if found.get("enum") == []:
        raise InvalidInput(f"no answer fits the schema of {name}: an enum is empty")
    ref = found.get("$ref")
    if ref is not None and ref.removeprefix("#/$defs/") not in known:
        raise InvalidInput(f"a local model cannot be held to the schema of {name}: it refers to {ref!r}")


def _ended(found: Schema, schema: Mapping[str, Any], name: str, known: set[str]) -> Schema:
    kind = found.get("type")
    if found.keys() & _NO_FREE_TEXT:
        return found
    if kind == "string" and not found.keys() & {"format", "pattern"}:
        found.setdefault("maxLength", max(TEXT, found.get("minLength", 0)))
    elif kind in ("integer", "number"):
        found = _number(kind) | found
    elif kind == "array":
        found.setdefault("items", _bounded({}, name, known))
        if "prefixItems" not in found:
            found.setdefault("maxItems", max(ITEMS, found.get("minItems", 0)))
        elif not isinstance(schema.get("items"), Mapping):
            found["items"] = False
    elif kind == "object":
        others = schema.get("additionalProperties", not found.get("properties"))
        found["additionalProperties"] = others and _bounded(others, name, known)
        if others:
            found.setdefault("maxProperties", max(ITEMS, found.get("minProperties", 0)))
    return found


def _number(kind: str) -> Schema:
    return {"type": kind, "minimum": -WHOLE, "maximum": WHOLE}


def _is_simple(pattern: str) -> bool:
    """Tell whether a pattern is a regular language: no look-around, no reference back, no word's border."""
    return not any(sign in pattern for sign in ("(?", r"\b", r"\B", *(rf"\{n}" for n in range(1, 10))))


def choice(options: Mapping[str, Schema], answer: Schema | None) -> Schema:
    """Return the schema of one step: one of the tools with its arguments, or an answer."""
    shared: Schema = {}
    steps = []
    for number, (name, schema) in enumerate(options.items()):
        arguments = _lifted(schema, f"t{number}_", shared)
        steps.append(_closed({"tool": {"const": name}, "arguments": arguments}))
    if answer is not None:
        steps.append(_closed({"answer": _lifted(answer, "a_", shared)}))
    return {"anyOf": steps} | ({"$defs": shared} if shared else {})


def _closed(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _lifted(schema: Any, prefix: str, shared: Schema) -> Any:
    """Move the definitions of a part to where its references look for them: the whole's root."""
    if isinstance(schema, list):
        return [_lifted(one, prefix, shared) for one in schema]
    if not isinstance(schema, dict):
        return schema
    lifted = {}
    for key, value in schema.items():
        if key == "$defs":
            shared.update({prefix + name: _lifted(one, prefix, shared) for name, one in value.items()})
        elif key == "$ref":
            lifted[key] = "#/$defs/" + prefix + value.removeprefix("#/$defs/")
        else:
            lifted[key] = _lifted(value, prefix, shared)
    return lifted


def example(schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None, deep: int = 0) -> Any:
    """Return a value that has the form of a schema, to show a model what is wanted."""
    whole = schema if whole is None else whole
    if "$ref" in schema:
        target = whole.get("$defs", {}).get(schema["$ref"].removeprefix("#/$defs/"), {})
        return example(target, whole, deep + 1) if deep < 4 else None
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example(schema[key][0], whole, deep + 1)
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    match schema.get("type"):
        case "object":
            return {name: example(one, whole, deep + 1) for name, one in schema.get("properties", {}).items()}
        case "array":
            return [example(schema["items"], whole, deep + 1)] if isinstance(schema.get("items"), dict) else []
        case "integer":
            return 1
        case "number":
            return 1.5
        case "boolean":
            return True
    return "..."
