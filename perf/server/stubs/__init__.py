"""Stubs, the processes in which the embedded server runs Python: started with any name, watched, told when they die."""
