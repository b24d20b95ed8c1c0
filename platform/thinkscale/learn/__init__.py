"""Supervised fine-tuning in torch, without Ray."""
