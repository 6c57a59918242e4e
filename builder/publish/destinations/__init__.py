"""Where servers read models from: on disk or in an object store, behind one Protocol."""
