"""Parts of the report of a sweep: RunResult → standing, next step, trust, reasons, each config apart; pure but for records."""
