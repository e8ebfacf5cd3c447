"""Labelers rank responses: the data of the reward model.

Candidates come from the policies and temperatures of the config, and from a
labeler's demonstration (Ouyang et al. 2022, section 3.4 and appendix B). A
training labeler ranks K of them, K drawn from 4..9. Some validation prompts
are ranked by every labeler of a group: those measure agreement.
"""

from collections.abc import Collection, Sequence
import json
import math
import pathlib
import zlib

import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.data.folder import DataFolder
from instructrl.data.records import Prompt, Ranking
from instructrl.lab.people import labelers as labelers_lib
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import lab
from instructrl.stages import policies

STAGES = ('rankings',)

DEMONSTRATION = 'demonstration'


def validate(config):
  checks.validate_common(config)
  require = checks.require
  require(
    2 <= config.min_responses <= config.max_responses,
    'min_responses must be 2 or more and at most max_responses',
  )
  checks.validate_positive(
    config,
    'num_prompts',
    'num_validation',
    'num_calibration',
    'prompt_len',
    'response_len',
    'batch_size',
  )
  validate_sources(config)
  room = num_candidates(config)
  require(
    config.max_responses <= room,
    f'max_responses={config.max_responses} is more than the {room} '
    'candidates of a prompt',
  )


def validate_sources(config):
  require = checks.require
  require(
    isinstance(config.sources, (tuple, list)) and config.sources,
    'sources is empty',
  )
  for source in config.sources:
    require(
      isinstance(source, (tuple, list)) and len(source) == 3,
      f'sources: {source!r} is not (input, temperature, samples)',
    )
    name, temperature, count = source
    require(
      name in config.inputs,
      f'sources names {name!r}, which is no field of inputs',
    )
    require(
      isinstance(temperature, (int, float)) and 0 <= temperature < math.inf,
      f'sources: temperature {temperature!r} of {name!r} is not a finite '
      'number of 0 or more',
    )
    require(
      isinstance(count, int) and count >= 1,
      f'sources: {count!r} samples of {name!r} is not a whole number of '
      '1 or more',
    )


def num_candidates(config) -> int:
  """How many candidates a prompt has; the last one is the demonstration."""
  return sum(count for *_, count in config.sources) + 1


def choose(
  config, num_prompts: int, group: str, split: str
) -> list[np.ndarray]:
  """Which candidates of each prompt a labeler of the group is shown.

  Returns:
    For each prompt the numbers of K different ones, in random order.
  """
  chosen = []
  for i in range(num_prompts):
    draw = _generator(config, 'choose', group, split, i)
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
  """The candidates of each prompt that somebody is shown.

  Args:
    run_policies: (source, temperature, policies.Policy) of each sample.
    prompts: N prompts.
    wanted: N lists of the numbers of candidates (see `choose`).
    writers: labelers who write a demonstration.
    config: of the stage.
    first: how many prompts were sampled for before; no two share their draws.

  Returns:
    N dicts: number -> {'text', 'tokens', 'source', 'temperature'}.
  """
  tok = run_policies[0][2].tok
  out = [{} for _ in prompts]
  for number, (source, temperature, policy) in enumerate(run_policies):
    shown = [i for i, numbers in enumerate(wanted) if number in numbers]
    # One seed for all: the row number tells the samples apart.
    responses = policy.sample_tokens(
      [prompts[i] for i in shown],
      temperature=temperature,
      seed=config.train_seed,
      purpose=rng.Purpose.CANDIDATES,
      rows=[(first + i) * len(run_policies) + number for i in shown],
    )
    for i, tokens in zip(shown, responses):
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


def rank(prompt: Prompt, shown: Sequence[dict], labeler, draw) -> Ranking:
  """One labeler ranks the responses that are shown."""
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
  )


def _generator(config, *purpose: str | int) -> np.random.Generator:
  return np.random.default_rng(
    [config.train_seed] + [zlib.crc32(str(p).encode()) for p in purpose]
  )


def run(config, workdir, label: str = '') -> dict:
  """Samples candidates, sets the labelers' noise, writes the rankings."""
  validate(config)
  workdir = pathlib.Path(workdir)
  primary = processes.primary()
  if primary:
    run_folder.write_config(workdir, config.to_dict())
  with (
    Progress('rankings', 3, label=label, primary=primary) as progress,
    policies.Opener(config, workdir) as opened,
  ):
    world = lab.load_world(opened.input('data'))
    labelers = lab.load_labelers(world)
    prompts = {
      split: opened.prompts(split, config.prompt_len)[:count]
      for split, count in (
        ('train', config.num_prompts),
        ('validation', config.num_validation),
      )
    }
    opened_policies = {
      name: opened.policy(
        name, config.response_len, step=config.steps.get(name, '')
      )
      for name, *_ in config.sources
    }
    sources = [
      (name, temperature, opened_policies[name])
      for name, temperature, count in config.sources
      for _ in range(count)
    ]
    groups = {
      g: [l for l in labelers if l.group == g] for g in ('train', 'heldout')
    }
    # Validation prompts are ranked by both groups.
    chosen = {
      (split, group): choose(config, len(data), group, split)
      for split, data in prompts.items()
      for group in (('train',) if split == 'train' else groups)
    }
    pools = {}
    first = 0
    for split, data in prompts.items():
      wanted = [
        set().union(*numbers)
        for numbers in zip(*(c for (s, _), c in chosen.items() if s == split))
      ]
      pools[split] = candidates(
        sources, data, wanted, groups['train'], config, first
      )
      first += len(data)
    progress.update(1, {'prompts': sum(map(len, prompts.values()))})

    # The noise is set on prompts of the training split, and measured on the
    # validation split.
    sample = lambda split, n: [
      (p, tuple(c['text'] for c in pool.values()))
      for p, pool in zip(prompts[split][:n], pools[split])
    ]
    labelers = labelers_lib.calibrate_noise(
      world, labelers, sample('train', config.num_calibration)
    )
    groups = {g: [l for l in labelers if l.group == g] for g in groups}
    agreement = {}
    for name, group in groups.items():
      value, error, pairs = labelers_lib.agreement(
        group, sample('validation', config.num_calibration), world.seed
      )
      agreement[name] = {
        'agreement': value,
        'standard_error': error,
        'num_pairs': pairs,
      }
    progress.update(
      2, {f'agreement/{g}': a['agreement'] for g, a in agreement.items()}
    )

    records = {split: [] for split in prompts}
    for (split, name), numbers in chosen.items():
      for i, (prompt, pool) in enumerate(zip(prompts[split], pools[split])):
        draw = _generator(config, 'rank', name, split, i)
        labeler = groups[name][int(draw.integers(len(groups[name])))]
        records[split].append(
          rank(prompt, [pool[c] for c in numbers[i]], labeler, draw)
        )
    if primary:
      made_from = files.fingerprint(config.to_dict())
      DataFolder(workdir).write_records('rankings', records, made_from)
      # The later stages meet the labelers with this noise.
      files.atomic_write(
        workdir / 'noise.json',
        json.dumps({l.name: float(l.noise) for l in labelers}, indent=2),
      )
    progress.update(3)
  return {
    'labeler_agreement': agreement,
    'rankings': {split: len(r) for split, r in records.items()},
    'ties': float(
      np.mean([1 - len(set(r.ranks)) / len(r.ranks) for r in records['train']])
    ),
    'pairs': int(
      sum(len(r.ranks) * (len(r.ranks) - 1) // 2 for r in records['train'])
    ),
  }
