"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a busy machine; no test asserts a time.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
