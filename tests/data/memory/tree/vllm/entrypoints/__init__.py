"""Stands where vLLM stands."""
