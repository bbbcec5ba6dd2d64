"""The rim: journals, MLflow runs, lineage, the registry."""
