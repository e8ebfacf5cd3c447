"""From records to batches.

`records` defines the records, `sources` make records from public data sets and
your own files, `sequences` keep records on disk while `curate` combines and
splits them, `store` and `folder` write and read data folders, `tasks` makes one
example of tokens, `pipeline` makes batches.
"""
