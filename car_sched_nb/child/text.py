"""The text of an answer, made without IPython where its printer would say the same as `repr`."""

from __future__ import annotations

from typing import Any

_SCALARS = frozenset({int, bool, complex, bytes, str, float, type(None)})
_BOXES = frozenset({list, tuple, dict})
_MOST = 20
_WIDE = 72
_OWN = ("_repr_pretty_", "_repr_mimebundle_", "_ipython_display_")


def plain_text(value: Any) -> str | None:
    """Return what a notebook prints of a value, or None where only IPython can tell."""
    if type(value) in _SCALARS:
        return repr(value)
    if type(value) in _BOXES:
        text = repr(value) if len(value) <= _MOST and _only_scalars(value) else ""
        return text if 0 < len(text) <= _WIDE else None
    for cls in type(value).__mro__:
        if cls.__module__ == "builtins" or any(name in vars(cls) for name in _OWN):
            return None
        if "__repr__" in vars(cls):
            inherited = any(hasattr(type(value), name) for name in _OWN)
            return None if inherited else repr(value)
    return None


def _only_scalars(box: Any) -> bool:
    parts = [*box.keys(), *box.values()] if isinstance(box, dict) else box
    return all(type(part) in _SCALARS for part in parts)
