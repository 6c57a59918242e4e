"""Action key → Artifact: here, and in a store that machines share."""
