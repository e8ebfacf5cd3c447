"""From records to batches.

`records` says what a record is and refuses a malformed one, `datasets` stores
records with TFDS, `tasks` makes one example of tokens, and `pipeline` makes a
batch that is a function of the step.
"""
