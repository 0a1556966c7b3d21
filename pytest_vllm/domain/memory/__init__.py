"""How vLLM spends the memory of a device: what is loaded, what the KV cache takes, in bytes.

Formulas and their checks against real vLLM: `docs/memory-accuracy.md`.
"""

from __future__ import annotations

GIB = 2**30
MIB = 2**20
