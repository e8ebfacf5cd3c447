"""The sources of the data stage: where they are, what they hold."""

import dataclasses
import hashlib
import itertools
import json
import pathlib

from instructrl.data.curate import parts
from instructrl.data.records import Document, prompt_of, to_dict
from instructrl.data.sequences import Spool
from instructrl.data.sources.lookup import load
from instructrl.data.sources.lookup import Loaded
from instructrl.data.sources.lookup import parse
from instructrl.stages import checks

PARTS = (*parts.PARTS, 'documents')
READ = 25  # percent of the stage's time after which all is read


def load_sources(config, workdir: pathlib.Path, progress) -> list[Loaded]:
  """Loads the specs of all parts, each once; see `Spool` for the folder."""
  loaded, known = [], {}
  count = len({*itertools.chain(*(config[part] for part in PARTS))})
  for part in PARTS:
    for spec in config[part]:
      if spec not in known:
        known[spec] = one = named(load(spec, folder=workdir), workdir)
        progress.message(f'{spec}: {len(one.records):,} of {one.read:,} rows')
        rows = sum(one.read for one in known.values())
        progress.update(int(READ * len(known) / count), {'rows': rows})
      parts.check_kind(part, spec, known[spec].kind)
      loaded.append(dataclasses.replace(known[spec], part=part))
  return loaded


def named(loaded: Loaded, folder: pathlib.Path | None = None) -> Loaded:
  """Puts the data set's name before each prompt's id, for evaluations.

  The name ends at the last '/' of an id, so a '/' in the source's own id
  becomes '%2F'.
  """
  label = parse(loaded.spec).label

  def with_name(record):
    own = prompt_of(record).id.replace('/', '%2F')
    return parts.with_prompt(record, id=f'{label}/{own}')

  if loaded.kind is Document:
    return loaded
  records = Spool(map(with_name, loaded.records), folder)
  return dataclasses.replace(loaded, records=records)


def contents(loaded) -> str:
  """Returns the fingerprint of the records of all sources."""
  digest = hashlib.sha256()
  for one in loaded:
    digest.update(f'{one.part} {one.spec}\n'.encode())
    for record in one.records:
      line = json.dumps(to_dict(record), sort_keys=True)
      digest.update(f'{line}\n'.encode())
  return digest.hexdigest()


def sources(config) -> dict[str, pathlib.Path]:
  """Returns {'PART: SPEC': path} of the sources that name a path."""
  return {
    f'{part}: {spec}': parse(spec).path
    for part in PARTS
    for spec in config[part]
    if parse(spec).path is not None
  }


def check_sources(config) -> None:
  """Raises ConfigError if a source's files are not at the path of its spec."""
  for part in PARTS:
    for spec in config[part]:
      known = parse(spec)
      try:
        if known.path is not None:
          known.files()
      except ValueError as error:
        raise checks.ConfigError(f'{part}: {spec}: {error}') from error
