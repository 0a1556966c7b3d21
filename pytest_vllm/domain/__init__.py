"""The rules of acceptance as pure data and functions: no pytest, no network, no files."""
