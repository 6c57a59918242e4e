"""A file of rows and a server → every row's answer, once, in a file; what was done is kept in a journal meanwhile."""
