"""From records to batches.

`records` defines the records, `sources` make records from public data sets and
your own files, `curate` combines and splits them, `store` and `folder` keep
them on disk, `tasks` makes one example of tokens, `pipeline` makes batches.
"""
