"""A server that others share → held by one sweep at a time, and put back as it was whatever becomes of the sweep."""
