"""Runs that were measured: told again, and compared."""
