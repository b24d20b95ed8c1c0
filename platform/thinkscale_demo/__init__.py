"""Procedural questions with worked solutions, from reasoning-gym: what the demo's pool is made of."""
