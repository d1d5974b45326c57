"""Those who are measured, a module each: the same functions, as far as each one can do the thing.

A peer's module runs in the peer's own environment, so it imports the standard library, psutil, the peer and `figures`.
"""
