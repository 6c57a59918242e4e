"""`python -m tritonsmith`: the command line."""

from tritonsmith.command_line import main

main()
