"""Decodes the JSON of clients strictly: no NaN, no lone surrogates, bounded depth.

Used for request bodies and socket messages alike. What Python's own decoder would let
through could never be encoded again and would break a reader later.
"""

import json
from typing import Any

import orjson


def parse_json(data: bytes | str, max_depth: int) -> Any:
    """Return the value of one JSON text; raise `json.JSONDecodeError` with the reason."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "", error.pos) from error
    if _is_deeper(value, max_depth):
        raise json.JSONDecodeError(f"nested deeper than {max_depth}", "", 0)
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
