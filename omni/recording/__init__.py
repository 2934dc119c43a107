"""Sessions on disk: the recorder and the store."""
