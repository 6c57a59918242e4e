"""Files and bytes of this machine and of others → values, with care for what a stranger may have written."""
