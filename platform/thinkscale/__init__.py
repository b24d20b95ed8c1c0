"""The s1 recipe (simple test-time scaling) as a platform on Ray."""

__version__ = "0.1.0"
