"""Campaigns under fire: a private cluster and S3 server, kills and faults at random moments, and what came of them."""

KINDS = ("worker", "replica", "engine", "node", "driver", "head", "store")  # what can be killed
