"""Load: what is sent when, what came back, and what that says of the server."""
