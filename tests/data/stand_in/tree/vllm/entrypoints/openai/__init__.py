"""A regular package: it must win over the real vLLM of an image."""
