"""The load generator: a small process that sends and stamps, and what stands around it."""
