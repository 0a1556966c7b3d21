"""Runs on a GPU of a machine without network: what to carry there, and what to do there."""
