"""Sources to documents to clean documents."""
