"""The rankings stage: the lab's labelers rank responses for the reward model.

Each prompt has candidates: samples of the policies and temperatures of the
config, and a labeler's demonstration. (In the paper they are samples, most of
SFT policies and some of PPO; Ouyang et al. 2022, section 3.1.) A labeler ranks
K of them, with K drawn from 4..9 (section 3.5, figure 12). The noise of the
labelers is calibrated to the paper's agreement rates first (section 3.4).

Optional fields, for rounds of rankings (`orchestration.rounds`):

first      {split: index of the first prompt of the split that is used}
project    folder of a labeling project: people rank, not the lab's labelers
people     when to go on with what people ranked, see `people_rankings`
inputs.labelers  rankings whose labelers' noise is used instead of calibrated
"""

from collections.abc import Collection, Sequence
import itertools
import math
import pathlib
import zlib

import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.data.folder import DataFolder
from instructrl.data.records import Prompt, Ranking
from instructrl.lab.people import labelers
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import lab
from instructrl.stages import people_rankings
from instructrl.stages import policies

STAGES = ('rankings',)

DEMONSTRATION = 'demonstration'


def validate(config) -> None:
  """Raises a ConfigError that names the field if a config is invalid."""
  checks.validate_common(config)
  require = checks.require
  require(
    2 <= config.min_responses <= config.max_responses,
    'min_responses must be 2 or more and at most max_responses',
  )
  checks.positive(
    config,
    'num_prompts',
    'num_validation',
    'num_calibration',
    'prompt_len',
    'response_len',
    'batch_size',
  )
  _validate_sources(config)
  people_rankings.validate(config)
  room = num_candidates(config)
  require(
    config.max_responses <= room,
    f'max_responses={config.max_responses} must be at most {room}, the number '
    'of candidates of a prompt',
  )


def _validate_sources(config) -> None:
  require = checks.require
  require(
    isinstance(config.sources, (tuple, list)) and config.sources,
    'sources is empty: give one or more',
  )
  for source in config.sources:
    require(
      isinstance(source, (tuple, list)) and len(source) == 3,
      f'sources must be (input, temperature, samples); got {source!r}',
    )
    name, temperature, count = source
    require(
      name in config.inputs, f'sources must name fields of inputs; got {name!r}'
    )
    require(
      isinstance(temperature, (int, float)) and 0 <= temperature < math.inf,
      f'sources: the temperature of {name!r} must be finite and 0 or more; got '
      f'{temperature!r}',
    )
    require(
      isinstance(count, int) and count >= 1,
      f'sources: the samples of {name!r} must be an integer of 1 or more; got '
      f'{count!r}',
    )


def num_candidates(config) -> int:
  """Returns the number of candidates of a prompt.

  The last one is the demonstration.
  """
  return sum(count for *_, count in config.sources) + 1


def choose(
  config, num_prompts: int, group: str, split: str
) -> list[np.ndarray]:
  """Draws the candidates that a labeler of the group ranks.

  Returns:
    For each prompt, the numbers of K different candidates in random order.
  """
  chosen = []
  for i in range(num_prompts):
    draw = _generator(config, 'choose', group, split, _first(config, split) + i)
    k = draw.integers(config.min_responses, config.max_responses + 1)
    chosen.append(draw.permutation(num_candidates(config))[:k])
  return chosen


def candidates(
  run_policies,
  prompts: Sequence[Prompt],
  wanted: Sequence[Collection[int]],
  writers,
  config,
  first: int,
) -> list[dict[int, dict]]:
  """Makes the candidates of each prompt that a labeler ranks.

  Args:
    run_policies: (source, temperature, LanguageModel) of each sample.
    prompts: N prompts.
    wanted: N collections of numbers of candidates (see `choose`).
    writers: labelers who write demonstrations.
    config: of the stage.
    first: number of prompts that other calls have; prompts never share draws.

  Returns:
    N dicts: number -> {'text', 'tokens', 'source', 'temperature'}.
  """
  tok = run_policies[0][2].tok
  out = [{} for _ in prompts]
  for same, numbers in itertools.groupby(
    range(len(run_policies)), run_policies.__getitem__
  ):
    source, temperature, policy = same
    numbers = list(numbers)
    shown = [
      (i, number)
      for i, some in enumerate(wanted)
      for number in numbers
      if number in some
    ]
    # One seed for all: samples differ by their row number.
    responses = policy.sample_tokens(
      [prompts[i] for i, _ in shown],
      temperature=temperature,
      seed=config.train_seed,
      purpose=rng.Purpose.CANDIDATES,
      rows=[(first + i) * len(run_policies) + number for i, number in shown],
    )
    for (i, number), tokens in zip(shown, responses):
      out[i][number] = dict(
        text=tok.decode(tokens),
        tokens=tuple(tokens),
        source=source,
        temperature=float(temperature),
      )
  for i, numbers in enumerate(wanted):
    if len(run_policies) in numbers:
      draw = _generator(config, 'demonstrate', first + i)
      writer = writers[int(draw.integers(len(writers)))]
      text = writer.demonstrate(prompts[i], draw)
      out[i][len(run_policies)] = dict(
        text=text,
        tokens=tuple(tasks.response_tokens(tok, text, config.response_len)),
        source=DEMONSTRATION,
        temperature=0.0,
      )
  return out


def rank(prompt: Prompt, shown: Sequence[dict], labeler, draw, tok) -> Ranking:
  """Returns the ranking of the shown responses by one labeler."""
  ranks, metadata = labeler.rank(prompt, [c['text'] for c in shown], draw)
  return Ranking(
    prompt=prompt,
    labeler=labeler.name,
    group=labeler.group,
    responses=tuple(c['text'] for c in shown),
    response_tokens=tuple(c['tokens'] for c in shown),
    sources=tuple(c['source'] for c in shown),
    temperatures=tuple(c['temperature'] for c in shown),
    ranks=tuple(ranks),
    metadata=tuple(metadata),
    prompt_tokens=tuple(tasks.chat_prompt(tok, prompt)),
  )


def _first(config, split: str) -> int:
  return config.get('first', {}).get(split, 0)


def _generator(config, *purpose: str | int) -> np.random.Generator:
  return np.random.default_rng(
    [config.train_seed] + [zlib.crc32(str(p).encode()) for p in purpose]
  )


def run(config, workdir, label: str = '') -> dict:
  """Samples candidates and writes their rankings, by labelers or by people.

  Raises:
    exits.Waiting: people have not ranked enough.
  """
  validate(config)
  workdir = pathlib.Path(workdir)
  primary = processes.primary()
  if primary:
    run_folder.write_config(workdir, config.to_dict())
  records: dict[str, list] = {}
  result: dict = {}
  with (
    Progress('rankings', 3, label=label, primary=primary) as progress,
    policies.Opener(config, workdir) as opened,
  ):
    prompts = {
      split: _prompts(opened, split, count)
      for split, count in (
        ('train', config.num_prompts),
        ('validation', config.num_validation),
      )
    }
    project = people_rankings.Asked.of(config, workdir)
    if project is None or processes.agree(not project.exists()):
      records, result = _by_labelers(opened, prompts, progress, project)
    if project is not None:
      records = project.rankings(prompts, opened.tok)
    if primary:
      made_from = files.fingerprint(config.to_dict())
      DataFolder(workdir).write_records('rankings', records, made_from)
    progress.update(3)
  ranks = [r.ranks for r in records['train']]
  return result | {
    'rankings': {split: len(r) for split, r in records.items()},
    'ties': float(np.mean([1 - len(set(r)) / len(r) for r in ranks])),
    'pairs': int(sum(len(r) * (len(r) - 1) // 2 for r in ranks)),
  }


def _prompts(opened: policies.Opener, split: str, count: int) -> list[Prompt]:
  """Returns the prompts of a split that are ranked, from `first` on."""
  first = _first(opened.config, split)
  found = opened.prompts(split, opened.config.prompt_len)
  checks.require(
    not first or first + count <= len(found),
    f'first.{split}={first} and {count} prompts from there need '
    f'{first + count} prompts of the split {split!r} that fit; there are '
    f'{len(found)}: use fewer rounds (the finished ones are kept), or fewer '
    'prompts per round',
  )
  return found[first : first + count]


def _by_labelers(
  opened: policies.Opener, prompts, progress: Progress, project
) -> tuple[dict[str, list], dict]:
  """Samples candidates, which labelers rank, or which become a project.

  Returns:
    (split -> rankings, the part of the result about the labelers); both are
    empty with a project.
  """
  config = opened.config
  world = lab.load_world(opened.input('data'))
  groups = _by_group(lab.load_labelers(world))
  # Validation prompts are ranked by both groups.
  chosen = {
    (split, group): choose(config, len(data), group, split)
    for split, data in prompts.items()
    for group in (('train',) if split == 'train' else groups)
  }
  pools = _pools(opened, prompts, chosen, groups['train'])
  progress.update(1, {'prompts': sum(map(len, prompts.values()))})
  if config.inputs.get('labelers'):
    people = [l for group in groups.values() for l in group]
    groups = _by_group(lab.with_noise(people, opened.input('labelers')))
  else:
    groups = _calibrated(config, world, groups, prompts, pools)
  if processes.primary():
    # Later stages give the labelers this noise.
    noise = {l.name: float(l.noise) for g in groups.values() for l in g}
    files.write_json(opened.workdir / lab.NOISE, noise)
    if project is not None:
      project.create(prompts, pools, chosen)
  if project is not None:
    processes.agree(0)  # the others read what process 0 has written
    return {}, {}
  agreement = _agreement(config, world, groups, prompts, pools)
  progress.update(
    2, {f'agreement/{g}': a['agreement'] for g, a in agreement.items()}
  )
  records = _rank_all(config, groups, prompts, pools, chosen, opened.tok)
  return records, {'labeler_agreement': agreement}


def _by_group(people) -> dict[str, list]:
  return {
    group: [l for l in people if l.group == group]
    for group in ('train', 'heldout')
  }


def _pools(opened: policies.Opener, prompts, chosen, writers) -> dict:
  """Returns split -> the candidates of each prompt, see `candidates`."""
  config = opened.config
  models = {
    name: opened.policy(
      name, config.response_len, step=config.steps.get(name, '')
    )
    for name, *_ in config.sources
  }
  sources = [
    (name, temperature, models[name])
    for name, temperature, count in config.sources
    for _ in range(count)
  ]
  pools, first = {}, sum(_first(config, split) for split in prompts)
  for split, data in prompts.items():
    by_group = [found for (s, _), found in chosen.items() if s == split]
    wanted = [set().union(*numbers) for numbers in zip(*by_group)]
    pools[split] = candidates(sources, data, wanted, writers, config, first)
    first += len(data)
  return pools


def _shown(config, prompts, pools, split: str) -> list:
  """Returns (prompt, texts of its candidates) of the prompts to calibrate."""
  pairs = zip(prompts[split][: config.num_calibration], pools[split])
  return [(p, tuple(c['text'] for c in pool.values())) for p, pool in pairs]


def _calibrated(config, world, groups, prompts, pools) -> dict:
  """Returns group -> labelers with noise, which is set on training prompts."""
  people = [l for group in groups.values() for l in group]
  shown = _shown(config, prompts, pools, 'train')
  return _by_group(labelers.calibrate_noise(world, people, shown))


def _agreement(config, world, groups, prompts, pools) -> dict:
  """Returns group -> agreement, measured on validation prompts."""
  agreement = {}
  for name, group in groups.items():
    shown = _shown(config, prompts, pools, 'validation')
    value, error, pairs = labelers.agreement(group, shown, world.seed)
    agreement[name] = {
      'agreement': value,
      'standard_error': error,
      'num_pairs': pairs,
    }
  return agreement


def _rank_all(config, groups, prompts, pools, chosen, tok) -> dict[str, list]:
  """Returns split -> rankings, each by one labeler drawn from its group."""
  records = {split: [] for split in prompts}
  for (split, name), numbers in chosen.items():
    for i, (prompt, pool) in enumerate(zip(prompts[split], pools[split])):
      draw = _generator(config, 'rank', name, split, _first(config, split) + i)
      labeler = groups[name][int(draw.integers(len(groups[name])))]
      shown = [pool[c] for c in numbers[i]]
      records[split].append(rank(prompt, shown, labeler, draw, tok))
  return records
