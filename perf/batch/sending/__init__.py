"""Rows → requests in flight → answers; what is asked again, and what has failed for good."""
