"""Small helpers that every room may use, and the settings."""
