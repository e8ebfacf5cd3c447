"""Files of other tools, read and written: weights and tokenizers."""
