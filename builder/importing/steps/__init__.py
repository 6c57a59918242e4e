"""Programs for Triton's python backend that `init` names as steps of an ensemble; nothing here is imported by us."""
