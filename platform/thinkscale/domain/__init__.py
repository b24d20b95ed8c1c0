"""Frozen types that every layer shares; they import nothing heavy."""
