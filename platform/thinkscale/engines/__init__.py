"""One file for each way to turn token ids into token ids, and texts into embeddings."""
