"""From records to batches.

`records` says what a record is and refuses a malformed one, `sources` makes
them of public data sets and of your own files, `datasets` knows the form of
each, `store` keeps them on disk, `tasks` makes one example of tokens, and
`pipeline` makes a batch that is a function of the step.
"""
