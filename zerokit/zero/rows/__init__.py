"""Embeddings by rows: read and summed where they lie, without the table."""
