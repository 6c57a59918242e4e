"""`tritonsmith batch`: a file of rows → a file of answers."""
