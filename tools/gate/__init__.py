"""How often the regression gate is right: docs/regression-gate.md."""
