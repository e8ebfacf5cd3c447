"""Small files in the form of public sources, written by the tests."""

import gzip
import json

from instructrl.data.sources import lookup


def write_lines(path, rows):
  """Writes JSON lines, gzipped if the name says so; text rows as they are."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = ''.join(
    (row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows
  )
  data = text.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


def load(spec, path, rows, **kwargs):
  """Writes rows and loads them with a spec whose `PATH` is their file."""
  write_lines(path, rows)
  return lookup.load(spec.replace('PATH', str(path)), **kwargs)
