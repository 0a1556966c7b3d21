"""A server that speaks vLLM's API, and ways to break it or any real server behind it."""
