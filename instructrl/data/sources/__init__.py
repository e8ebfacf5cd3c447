"""The sources of records, and the TFDS builders that `data.store` writes with."""
