"""Programs that run in the server's image, on its own Python; nothing here is imported by us."""
