"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# How long an example takes says nothing on a busy machine; no test asserts a time.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# Whole runs of the suites are many here; tests/real/test_memory.py has the soak that users get.
os.environ.setdefault("PYTEST_VLLM_SOAK_REQUESTS", "40")
