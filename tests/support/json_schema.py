"""The schema of `--json`, and a reader of the part of JSON Schema that it uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import answers

SCHEMA = json.loads(Path(answers.__file__).with_name("answers.schema.json").read_text())
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def faults(value: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """The faults of a value by a schema: the part of JSON Schema that ours uses, every keyword of it known."""
    known = {
        "type",
        "enum",
        "const",
        "required",
        "additionalProperties",
        "properties",
        "items",
        "anyOf",
        "$ref",
    }
    silent = {"description", "title", "minimum", "$schema", "$defs"}
    assert schema.keys() <= known | silent
    if ref := schema.get("$ref"):
        yield from faults(value, SCHEMA["$defs"][ref.rpartition("/")[2]], where)
        return
    if choices := schema.get("anyOf"):
        if all(list(faults(value, choice, where)) for choice in choices):
            yield from next(iter(sorted((list(faults(value, choice, where)) for choice in choices), key=len)))
        return
    types = schema.get("type", list(TYPES))
    types = [types] if isinstance(types, str) else types
    if not any(isinstance(value, TYPES[name]) and (name == "boolean" or value is not True) for name in types):
        yield f"{where} is {value!r}, not {types}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r}"
    if "const" in schema and value != schema["const"]:
        yield f"{where} is {value!r}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            more = schema.get("additionalProperties", {})
            if name not in properties and more is False:
                yield f"{where}.{name} is not in the schema"
            else:
                yield from faults(
                    inner, properties.get(name, more if isinstance(more, dict) else {}), f"{where}.{name}"
                )
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from faults(inner, schema.get("items", {}), f"{where}[{place}]")
