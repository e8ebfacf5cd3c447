"""The data stage: from public data sets to what all other stages read.

The run folder has the layout of the lab's: the data sets 'prompts',
'demonstrations' and 'corpus', the tokenizer's file and the packed rows; and the
data set 'rankings', so that it is inputs.data and inputs.rankings at once. What
no source gives is left out. `summary.json` and `summary.txt` say what was read,
what was left out and why.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib

from instructrl.data import store
from instructrl.data.curate import curate
from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.folder import DataFolder
from instructrl.data.records import check_no_leak, Document, prompt_of, to_dict
from instructrl.data.sources import registry
from instructrl.data.summary import describe
from instructrl.data.summary import describe_made
from instructrl.data.summary import render_all
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.tokenizers import loading
from instructrl.tokenizers import protocol
from instructrl.tokenizers import trained

STAGES = ('data',)

PARTS = (*parts.PARTS, 'documents')
MODEL_TYPES = ('bpe', 'unigram', 'word')
SUMMARY, SUMMARY_TEXT = 'summary.json', 'summary.txt'


def validate(config):
  """Refuses what makes no sense, by field name."""
  checks.validate_common(config)
  require = checks.require
  for part in PARTS:
    specs = config[part]
    require(
      isinstance(specs, (tuple, list))
      and all(isinstance(spec, str) for spec in specs),
      f'{part}={specs!r} is not a tuple of source specs',
    )
    again = [spec for spec in specs if specs.count(spec) > 1]
    require(not again, f'{part} names {again[0] if again else ""} twice')
    for spec in specs:
      try:
        registry.parse(spec)
      except ValueError as error:
        raise checks.ConfigError(f'{part}: {error}') from error
  require(
    any(config[part] for part in PARTS),
    f'there is no source: set one of {", ".join(PARTS)}',
  )
  checks.validate_positive(config, 'prompt_len', 'response_len', 'row_len')
  require(
    config.row_len >= config.prompt_len,
    f'row_len={config.row_len} is less than prompt_len='
    f'{config.prompt_len}: a demonstration is never split',
  )
  require(config.max_responses >= 2, 'max_responses must be 2 or more')
  for name in ('validation_fraction', 'ppo_fraction', 'heldout_labelers'):
    require(0 <= config[name] < 1, f'{name}={config[name]} is not in [0, 1)')
  for name in ('dedup_prefix', 'max_per_user'):
    require(config[name] >= 0, f'{name}={config[name]} is negative')
  for name, choices in (
    ('split_by', ('user', 'prompt')),
    ('pii', ('keep', 'drop')),
    ('long_responses', fitting.LONG_RESPONSES),
  ):
    require(
      config[name] in choices,
      f'{name}={config[name]!r} is none of {", ".join(choices)}',
    )
  if config.inputs.tokenizer:
    return
  for name in fitting.TEMPLATES:
    require(
      not config[name],
      f'{name} is of an imported tokenizer: set '
      f"inputs.tokenizer, or leave {name}=''",
    )
  require(
    config.tokenizer.vocab_size >= 1,
    f'tokenizer.vocab_size={config.tokenizer.vocab_size} must be 1 or more',
  )
  require(
    config.tokenizer.model_type in MODEL_TYPES,
    f'tokenizer.model_type={config.tokenizer.model_type!r} is none of '
    f'{", ".join(MODEL_TYPES)}',
  )


def settings(config) -> parts.Settings:
  return parts.Settings(
    **{
      field.name: config[field.name]
      for field in dataclasses.fields(parts.Settings)
    }
  )


def load_sources(config, progress) -> list[tuple[str, registry.Loaded]]:
  """(part, what was loaded) of all specs; each is read once."""
  loaded, known = [], {}
  for part in PARTS:
    for spec in config[part]:
      if spec not in known:
        known[spec] = named(registry.load(spec))
        progress.message(
          f'{spec}: {len(known[spec].records):,} of {known[spec].read:,} rows'
        )
        progress.update(
          len(known), {'rows': sum(one.read for one in known.values())}
        )
      curate.check_kind(part, spec, known[spec].kind)
      loaded.append((part, known[spec]))
  return loaded


def named(loaded: registry.Loaded) -> registry.Loaded:
  """The same with ids that begin with the data set's name, for evaluations.

  That name ends at an id's last '/', so the source's own have theirs as '%2F'.
  """
  label = registry.parse(loaded.spec).label
  own = lambda record: '/'.join(
    (label, prompt_of(record).id.replace('/', '%2F'))
  )
  return dataclasses.replace(
    loaded,
    records=[
      record
      if isinstance(record, Document)
      else parts.with_prompt(record, id=own(record))
      for record in loaded.records
    ],
  )


def contents(loaded) -> str:
  """A fingerprint of the records of all sources."""
  digest = hashlib.sha256()
  for part, one in loaded:
    digest.update(f'{part} {one.spec}\n'.encode())
    for record in one.records:
      digest.update(
        json.dumps(to_dict(record), sort_keys=True).encode() + b'\n'
      )
  return digest.hexdigest()


# --- The tokenizer -----------------------------------------------------------


def _texts(curated: parts.Curated) -> Iterator[str]:
  """What a tokenizer is trained on: nothing that is held out."""
  documents = (d.text for d in curated.documents if d.split == 'train')
  shown = (
    f'{d.prompt.text}\n{d.response}'
    for d in curated.demonstrations
    if d.prompt.split == 'train'
  )
  ranked = (
    '\n'.join(parts.texts_of(r))
    for r in curated.rankings
    if r.prompt.split == 'train'
  )
  found = itertools.chain(documents, shown)
  first = next(found, None)
  return ranked if first is None else itertools.chain([first], found)


def imported_tokenizer(
  config, workdir: pathlib.Path
) -> protocol.AnyTokenizer | None:
  """That of inputs.tokenizer with the config's layout; None without one."""
  if not config.inputs.tokenizer:
    return None
  return fitting.with_templates(
    loading.load(inputs.input_path(config, workdir, 'tokenizer')), config
  )


def own_tokenizer(
  config, workdir: pathlib.Path, curated: parts.Curated
) -> protocol.AnyTokenizer:
  """The one that an earlier attempt trained on the same texts, or a new one."""
  if loading.has(workdir):  # of the same texts: see `add_input`
    return loading.load(workdir)
  return trained.Tokenizer(
    trained.train_tokenizer(
      _texts(curated),
      config.tokenizer.vocab_size,
      model_type=config.tokenizer.model_type,
    )
  )


# --- What is written ---------------------------------------------------------


def fit(config, curated: parts.Curated, tok) -> parts.Curated:
  """What is left of the records in tokens."""
  drops, n = curated.drops, config.prompt_len
  fits = fitting.prompts_that_fit(tok, n)
  fitted = lambda part: fitting.fitting(
    getattr(curated, part), part, fits, n, drops
  )
  demonstrations = fitted('demonstrations')
  fitting.count_cut(demonstrations, tok, config.response_len, drops)
  rankings = fitting.tokenized(
    fitted('rankings'),
    tok,
    fitting.Lengths(
      n, config.response_len, config.max_responses, config.long_responses
    ),
    config.world_seed,
    drops,
  )
  prompts, lost = {}, set()
  for split, found in curated.prompts.items():
    prompts[split] = [p for p in found if fits(p)]
    for prompt in found:
      if not fits(prompt) and prompt.text not in lost:
        lost.add(prompt.text)
        drops.add('prompts', f'prompt has more than {n} tokens', prompt.id)
  layout = getattr(tok, 'layout', None)  # of an imported model
  if (
    layout
    and not layout.between_turns
    and any(p.turns for found in prompts.values() for p in found)
  ):
    curated.notes.append(
      'dialogues are laid out as one text, as the prompt '
      'template knows no turns'
    )
  fitted = dataclasses.replace(
    curated,
    demonstrations=demonstrations,
    rankings=rankings,
    prompts={split: found for split, found in prompts.items() if found},
  )
  for part in PARTS:
    reasons = '; '.join(
      f'{count:,} {reason}' for reason, count in drops.of(part).items()
    )
    checks.require(
      not config[part] or bool(getattr(fitted, part)),
      f'{part}: no row of {", ".join(config[part])} is left'
      f'{f" ({reasons})" if reasons else ""}',
    )
  return fitted


def write(
  config, folder: DataFolder, data: parts.Curated, tok, made_from: str
) -> dict[str, int]:
  """Writes the data sets and rows that are not finished.

  Returns:
    Name of the file -> its number of rows.
  """
  shown = store.by_split(data.demonstrations)
  documents = store.by_split(data.documents)
  folder.write_records('prompts', data.prompts, made_from)
  folder.write_records('demonstrations', shown, made_from)
  folder.write_records('rankings', store.by_split(data.rankings), made_from)
  folder.write_records('corpus', documents, made_from)
  rows = folder.write_rows(
    documents,
    shown,
    tok,
    row_len=config.row_len,
    response_len=config.response_len,
    made_from=made_from,
  )
  return {name: len(packed) for name, packed in rows.items()}


def check_leaks(data: parts.Curated, by_user: bool) -> None:
  """No prompt and no user is both trained on and held out."""
  bare = lambda record: (
    record if by_user else parts.with_prompt(record, user='')
  )
  everything: Sequence = [
    *data.demonstrations,
    *data.rankings,
    *itertools.chain(*data.prompts.values()),
  ]
  side = {True: [], False: []}
  for record in everything:
    side[prompt_of(record).split == 'train'].append(bare(record))
  check_no_leak(side[True], side[False])


def check_sources(config) -> None:
  """Refuses a source of which no file is there, by part."""
  for part in PARTS:
    for spec in config[part]:
      path = registry.parse(spec).path
      checks.require(
        path is None or path.exists(), f'{part}: {spec}: there is no {path}'
      )


def prepare(config, workdir: pathlib.Path, progress):
  """(what was loaded, its fingerprint, what is made of it, tokenizer).

  Nothing of it is written yet.

  Raises:
    ConfigError: whatever is wrong with the sources or the tokenizer, so that
      the folder is free for another config.
  """
  try:
    check_sources(config)
    tok = imported_tokenizer(config, workdir)
    loaded = load_sources(config, progress)
    read = contents(loaded)
    run_folder.add_input(workdir, 'sources', read)
    curated = curate.curate(
      [parts.Source(part, one.spec, one.records) for part, one in loaded],
      settings=settings(config),
      seed=config.world_seed,
    )
    tok = fitting.Remembering(tok or own_tokenizer(config, workdir, curated))
    data = fit(config, curated, tok)
    check_leaks(data, config.split_by == 'user')
  except ValueError as error:
    raise checks.ConfigError(str(error)) from error
  return loaded, read, data, tok


def run(config, workdir, label: str = '') -> dict:
  """Writes the data folder. Finished data sets are not made again."""
  validate(config)
  if not processes.primary():
    return {}  # process 0 writes; the others wait for it in the runner
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  run_folder.write_config(workdir, config.to_dict())
  folder = DataFolder(workdir)
  specs = len({spec for part in PARTS for spec in config[part]})
  with Progress('data', specs + 3, label=label) as progress:
    loaded, read, data, tok = prepare(config, workdir, progress)
    folder.write_tokenizer(tok)
    progress.update(specs + 1, {'vocab_size': tok.vocab_size})
    made_from = files.fingerprint(
      {
        'sources': read,
        'tokenizer': tok.fingerprint,
        'config': {
          name: value
          for name, value in config.to_dict().items()
          if name not in run_folder.MAY_CHANGE
        },
      }
    )
    rows = write(config, folder, data, tok, made_from)
    progress.update(specs + 2, {'packed rows': sum(rows.values())})
    summary = {
      'sources': [
        {
          'part': part,
          **describe(
            one,
            tok,
            prompt_len=config.prompt_len,
            response_len=config.response_len,
          ),
        }
        for part, one in loaded
      ],
      'made': describe_made(data, rows, tok),
    }
    files.atomic_write(workdir / SUMMARY, json.dumps(summary, indent=1) + '\n')
    files.atomic_write(workdir / SUMMARY_TEXT, render_all(summary))
    progress.update(specs + 3)
  made = summary['made']
  return {
    'fingerprint': made_from,
    **{
      name: made[name]
      for name in ('splits', 'rows', 'vocab_size', 'pairs', 'ties', 'notes')
      if name in made
    },
  }
