"""Our load client beside the others: the same work, an exact server, one table."""
