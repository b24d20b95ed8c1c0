"""The stages of `pipeline.STAGES`, one file each, and regrading and comparing: read, ask or map, commit."""
