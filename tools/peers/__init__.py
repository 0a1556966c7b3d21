"""Other estimators on the same models, run for real, for `docs/memory-accuracy.md`."""
