"""The data stage: makes a data folder from public data sets or own files.

The folder has the layout of a lab's (see `data.folder`), and a data set
'rankings' too: it serves as inputs.data and as inputs.rankings. Parts that no
source gives are missing. `summary.json` and `summary.txt` report what was read,
what was dropped and why.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import itertools
import pathlib

from instructrl.data import store
from instructrl.data.curate import curate
from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.curate.remembering import Remembering
from instructrl.data.folder import DataFolder
from instructrl.data.records import check_no_leak, prompt_of, Record
from instructrl.data.sequences import Mapped
from instructrl.data.sources.lookup import Loaded
from instructrl.data.sources.lookup import parse
from instructrl.data.summary import describe
from instructrl.data.summary import describe_made
from instructrl.data.summary import warnings
from instructrl.data.summary_text import render_all
from instructrl.runtime import files
from instructrl.runtime import origins
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import workers
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import data_sources
from instructrl.stages import inputs
from instructrl.tokenizers import loading
from instructrl.tokenizers import protocol
from instructrl.tokenizers import trained

STAGES = ('data',)

PARTS = data_sources.PARTS
# For the registry.
sources = data_sources.sources
check_sources = data_sources.check_sources

CHOICES = {
  'split_by': ('user', 'prompt'),
  'pii': ('keep', 'drop'),
  'long_responses': fitting.LONG_RESPONSES,
}
MODEL_TYPES = ('bpe', 'unigram', 'word')
MANY_ROWS = 20_000  # above it, workers save more than the seconds they start in
# Percent of the time after which all is encoded and written.
LEARNED, WRITTEN = 55, 90
SUMMARY, SUMMARY_TEXT = 'summary.json', 'summary.txt'

DataSets = Mapping[str, Mapping[str, Sequence[Record]]]


def validate(config):
  """Raises ConfigError for the first field with a wrong value."""
  checks.validate_common(config)
  for part in PARTS:
    _validate_specs(part, config[part])
  require = checks.require
  require(
    any(config[part] for part in PARTS),
    f'there is no source: set one of {", ".join(PARTS)}',
  )
  checks.positive(config, 'prompt_len', 'response_len', 'row_len')
  require(
    config.row_len >= config.prompt_len,
    f'row_len={config.row_len} is less than prompt_len={config.prompt_len}: '
    'a demonstration is never split',
  )
  checks.within(config, 'max_responses', low=2)
  shares = ('validation_fraction', 'ppo_fraction', 'heldout_labelers')
  checks.within(config, *shares, low=0, below=1)
  checks.within(config, 'dedup_prefix', 'max_per_user', 'workers', low=0)
  for name, choices in CHOICES.items():
    _validate_choice(name, config[name], choices)
  if config.inputs.tokenizer:
    return
  for name in fitting.TEMPLATES:
    require(
      not config[name],
      f"{name} needs an imported tokenizer: set inputs.tokenizer, or {name}=''",
    )
  checks.within(config.tokenizer, 'vocab_size', prefix='tokenizer.', low=1)
  model_type = config.tokenizer.model_type
  _validate_choice('tokenizer.model_type', model_type, MODEL_TYPES)


def _validate_choice(name: str, value, choices):
  listed = ', '.join(choices)
  checks.require(
    value in choices, f'{name} must be one of {listed}; got {value!r}'
  )


def _validate_specs(part: str, specs):
  checks.require(
    isinstance(specs, (tuple, list))
    and all(isinstance(spec, str) for spec in specs),
    f'{part}={specs!r} is not a tuple of source specs',
  )
  again = [spec for spec in specs if specs.count(spec) > 1]
  checks.require(not again, f'{part} names {again[0] if again else ""} twice')
  for spec in specs:
    try:
      parse(spec)
    except ValueError as error:
      raise checks.ConfigError(f'{part}: {error}') from error


# --- What is written ----------------------------------------------------------


def in_sets(data: parts.Curated) -> DataSets:
  """Returns data set -> split -> its records; some may have none."""
  return {
    'prompts': data.prompts,
    'demonstrations': store.by_split(data.demonstrations),
    'rankings': store.by_split(data.rankings),
    'corpus': store.by_split(data.documents),
  }


def check_leaks(sets: DataSets, by_user: bool) -> None:
  """Raises ValueError if a prompt or user is both trained on and held out."""
  train, held_out = [], []
  for name in ('demonstrations', 'rankings', 'prompts'):
    for split, records in sets[name].items():
      (train if split in ('train', 'ppo') else held_out).append(records)

  def prompts(several):
    for prompt in map(prompt_of, itertools.chain(*several)):
      yield prompt if by_user else parts.with_prompt(prompt, user='')

  check_no_leak(prompts(train), [*prompts(held_out)])


# --- The tokenizer -----------------------------------------------------------


def _texts(curated: parts.Curated) -> Iterator[str]:
  """Yields the training texts for a tokenizer.

  Documents and demonstrations; rankings if there are neither.
  """
  documents = (d.text for d in curated.documents if d.split == 'train')
  trained_on = lambda records: (r for r in records if r.prompt.split == 'train')
  shown = map(parts.texts_of, trained_on(curated.demonstrations))
  ranked = map(parts.texts_of, trained_on(curated.rankings))
  found = itertools.chain(documents, map('\n'.join, shown))
  first = next(found, None)
  if first is None:
    return map('\n'.join, ranked)
  return itertools.chain([first], found)


def imported_tokenizer(
  config, workdir: pathlib.Path
) -> protocol.AnyTokenizer | None:
  """Loads inputs.tokenizer with the config's templates; None if unset."""
  if not config.inputs.tokenizer:
    return None
  path = inputs.input_path(config, workdir, 'tokenizer')
  return fitting.with_templates(loading.load(path), config)


def own_tokenizer(
  config, workdir: pathlib.Path, curated: parts.Curated
) -> protocol.AnyTokenizer:
  """Trains a tokenizer, or loads the one of an earlier attempt.

  An earlier attempt had the same texts: `prepare` compares their fingerprint.
  """
  if loading.has(workdir):
    return loading.load(workdir)
  wanted = config.tokenizer
  return trained.Tokenizer(
    trained.train_tokenizer(
      _texts(curated), wanted.vocab_size, model_type=wanted.model_type
    )
  )


# --- The stage ---------------------------------------------------------------


def prepare(config, workdir: pathlib.Path, progress):
  """Loads and curates the sources, and encodes their texts.

  Returns:
    (loaded sources, their fingerprint, curated data, a `Remembering` tokenizer,
    whose file is for the caller to remove).

  Raises:
    ConfigError: the sources or the tokenizer cannot be used; the folder stays
      free for another config.
  """
  with _refusing():
    check_sources(config)
    own = imported_tokenizer(config, workdir)
    loaded = data_sources.load_sources(config, workdir, progress)
    read = data_sources.contents(loaded)
    origins.add(workdir, 'sources', read)
    fields = [field.name for field in dataclasses.fields(parts.CurateSettings)]
    curated = curate.curate(
      loaded,
      settings=parts.CurateSettings(**{name: config[name] for name in fields}),
      seed=config.world_seed,
    )
    own = own or own_tokenizer(config, workdir, curated)
    tok = Remembering(own, workdir)
  with _refusing(tok):
    _learn(tok, loaded, progress)
  return loaded, read, curated, tok


@contextlib.contextmanager
def _refusing(tok: Remembering | None = None):
  """Turns a ValueError into a ConfigError; removes the file of a tokenizer."""
  try:
    yield
  except ValueError as error:
    if tok is not None:
      tok.forget()
    raise checks.ConfigError(str(error)) from error


def fit(
  config, curated: parts.Curated, tok: Remembering
) -> tuple[parts.Curated, DataSets]:
  """Returns the records that fit, and the same as data sets.

  Raises:
    ConfigError: nothing of a part is left, or the data leak.
  """
  lengths = fitting.Lengths(
    config.prompt_len,
    config.response_len,
    config.row_len,
    config.max_responses,
    config.long_responses,
  )
  with _refusing(tok):
    data = fitting.fit(curated, tok, lengths, config.world_seed)
    _refuse_empty(config, data)
    sets = in_sets(data)
    check_leaks(sets, config.split_by == 'user')
  return data, sets


def _learn(tok: Remembering, loaded: list[Loaded], progress) -> None:
  """Encodes the texts of all sources, each source once."""
  sources = {one.spec: one.records for one in loaded}.values()
  total, before, begin = sum(map(len, sources)), 0, data_sources.READ
  for records in sources:
    for done in tok.learn(records):
      share = (before + done) / total
      progress.update(begin + int((LEARNED - begin) * share))
    before += len(records)


def _refuse_empty(config, data: parts.Curated) -> None:
  """Raises ConfigError if every row of a part was dropped."""
  for part in PARTS:
    drops = data.drops.of(part).items()
    reasons = '; '.join(f'{count:,} {reason}' for reason, count in drops)
    checks.require(
      not config[part] or bool(getattr(data, part)),
      f'{part}: no row of {", ".join(config[part])} is left'
      f'{f" ({reasons})" if reasons else ""}',
    )


def write(
  config,
  folder: DataFolder,
  sets: DataSets,
  tok,
  made_from: str,
  submit: workers.Submit,
) -> list[futures.Future]:
  """Writes the data sets and rows that are not finished.

  Returns:
    Futures of the data sets; the last one's result is the files of rows.
  """
  in_tokens = functools.partial(
    fitting.in_tokens, tok=tok, response_len=config.response_len
  )
  ranked = {
    split: Mapped(in_tokens, rankings)
    for split, rankings in sets['rankings'].items()
  }
  written = [
    submit(folder.write_records, name, records, made_from)
    for name, records in {**sets, 'rankings': ranked}.items()
  ]
  rows = submit(
    folder.write_rows,
    sets['corpus'],
    sets['demonstrations'],
    tok,
    row_len=config.row_len,
    response_len=config.response_len,
    made_from=made_from,
  )
  return [*written, rows]


def _warned(config, loaded, data: parts.Curated, tok, progress) -> list[str]:
  """Shows and returns the warnings."""
  lost = warnings(loaded, data)
  if config.long_responses == 'cut':
    ranked = (
      fitting.in_tokens(ranking, tok, config.response_len)
      for ranking in data.rankings
    )
    biased = fitting.cut_preference(ranked, tok.eos_id)
    lost += [biased] * bool(biased)
  for line in lost:
    progress.message(f'WARNING: {line}')
  return lost


def num_workers(config, loaded: Sequence[Loaded]) -> int:
  """Returns the number of processes that write."""
  rows = sum(len(one.records) for one in loaded)
  return config.workers or (workers.cores() if rows >= MANY_ROWS else 1)


def run(config, workdir, label: str = '') -> dict:
  """Writes the data folder. Finished data sets are not made again.

  Returns:
    The contents of DONE.
  """
  validate(config)
  if not processes.primary():
    return {}  # process 0 writes; the others wait for it in the runner
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  run_folder.write_config(workdir, config.to_dict())
  folder = DataFolder(workdir)
  limits = {name: config[name] for name in ('prompt_len', 'response_len')}
  with Progress('data', 100, label=label, unit='%') as progress:
    loaded, read, curated, tok = prepare(config, workdir, progress)
    with workers.pool(num_workers(config, loaded)) as submit:
      described = [submit(describe, one, tok, **limits) for one in loaded]
      data, sets = fit(config, curated, tok)
      lost = _warned(config, loaded, data, tok, progress)
      folder.write_tokenizer(tok)
      fixed = run_folder.fixed_part(config.to_dict())
      made_from = files.fingerprint(
        {'sources': read, 'tokenizer': tok.fingerprint, 'config': fixed}
      )
      written = write(config, folder, sets, tok, made_from, submit)
      made = describe_made(data, sets, tok, lost)
      for done, future in enumerate(futures.as_completed(written), 1):
        future.result()  # an error does not wait for the other data sets
        share = done / len(written)
        progress.update(LEARNED + int((WRITTEN - LEARNED) * share))
      rows = written[-1].result()
      made['rows'] = {name: len(packed) for name, packed in rows.items()}
      summary = {
        'sources': [future.result() for future in described],
        'made': made,
      }
    files.write_json(workdir / SUMMARY, summary)
    files.atomic_write(workdir / SUMMARY_TEXT, render_all(summary))
    tok.forget()
    progress.update(100)
  wanted = (
    'splits',
    'rows',
    'vocab_size',
    'pairs',
    'ties',
    'notes',
    'warnings',
  )
  return {
    'fingerprint': made_from,
    **{name: made[name] for name in wanted if name in made},
  }
