"""Artifacts, manifests and Parquet on a local directory or S3."""
