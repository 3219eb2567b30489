"""JSON inside a page: valid for every parser, harmless inside a script element."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from intriguing.report import format as fmt


def readable(value: object) -> str:
    """Return indented JSON for a reader; what is not finite becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=1)


def embedded(value: object) -> Markup:
    """Return compact JSON for a ``<script type="application/json">``: no tag can open or close within it.

    Example:
        >>> str(embedded({"a": "</script>"}))
        '{"a":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """Return a copy of a JSON value without NaN and infinities."""
    if isinstance(value, Mapping):
        return {fmt.clean(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return fmt.clean(value) if isinstance(value, str) else value
