"""Hold the forecast against what is known, and write `docs/memory-accuracy.md`."""
