"""What people and programs read about a run: pure functions from a record to a text."""
