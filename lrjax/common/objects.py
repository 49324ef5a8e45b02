"""Objects of JSON in texts that may be anything."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: bytes) -> dict[str, Any] | None:
    """The object that a text of JSON holds; None if the text is something else.

    Example:
      >>> parsed(b'{"loss": 0.5}'), parsed(b"[1]"), parsed(b'{"loss":')
      ({'loss': 0.5}, None, None)
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
