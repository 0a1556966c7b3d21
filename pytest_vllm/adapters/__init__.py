"""The outside world, one third-party library or one system interface each."""
