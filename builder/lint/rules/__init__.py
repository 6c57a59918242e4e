"""One module a family of rules; every Rule in them is a row of the table."""
