"""Command line functions of the builder: flags in, library calls, text or JSON out."""
