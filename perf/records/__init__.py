"""Every request one row; the load that it was sent under."""
