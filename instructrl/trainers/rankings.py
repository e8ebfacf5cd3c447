"""Labelers rank responses: the data of the reward model.

Candidates come from the policies and temperatures of the config, and from a
labeler's demonstration (Ouyang et al. 2022, section 3.4 and appendix B). A
training labeler ranks K of them, K drawn from 4..9. Some validation prompts
are ranked by every labeler of a group: those measure agreement.
"""

from collections.abc import Sequence
import json
import pathlib

import numpy as np

from instructrl import metrics as metrics_lib
from instructrl import rng
from instructrl.data import tasks
from instructrl.data.datasets import lab as lab_data
from instructrl.data.records import Prompt, Ranking
from instructrl.lab import labelers as labelers_lib
from instructrl.trainers import common
from instructrl.trainers import lab
from instructrl.trainers import policies

DEMONSTRATION = 'demonstration'


def validate(config):
  common.validate_common(config)
  require = common.require
  require(2 <= config.min_responses <= config.max_responses,
          'min_responses must be 2 or more and at most max_responses')
  require(len(config.sources) > 0, 'sources is empty')
  for name, temperature in config.sources:
    require(name in config.inputs, f'sources names {name!r}, which is no '
            'field of inputs')
    require(temperature >= 0, f'sources: temperature {temperature} < 0')
  room = len(config.sources) * config.samples_per_source + 1
  require(config.max_responses <= room,
          f'max_responses={config.max_responses} is more than the {room} '
          'candidates of a prompt')


def candidates(run_policies, prompts: Sequence[Prompt], writers, config, seed
               ) -> list[list[dict]]:
  """All candidate responses of each prompt.

  Args:
    run_policies: list of (source, temperature, policies.Policy).
    prompts: N prompts.
    writers: labelers who write a demonstration.
    config: of the stage.
    seed: of the sampling.

  Returns:
    N lists of {'text', 'tokens', 'source', 'temperature'}.
  """
  out = [[] for _ in prompts]
  for number, (source, temperature, policy) in enumerate(run_policies):
    for sample in range(config.samples_per_source):
      # One seed for all: the row number tells the samples apart.
      offset = (number * config.samples_per_source + sample) * len(prompts)
      responses = policy.sample_tokens(
          [p.text for p in prompts], temperature=temperature, seed=seed,
          purpose=rng.Purpose.CANDIDATES,
          rows=range(offset, offset + len(prompts)))
      for i, tokens in enumerate(responses):
        out[i].append(dict(
            text=policy.tok.decode(tokens), tokens=tuple(tokens),
            source=source, temperature=float(temperature)))
  for i, prompt in enumerate(prompts):
    draw = np.random.default_rng([seed, 21, i])
    writer = writers[int(draw.integers(len(writers)))]
    text = writer.demonstrate(prompt, draw)
    tok = run_policies[0][2].tok
    out[i].append(dict(
        text=text, tokens=tuple(tasks.response_tokens(
            tok, text, config.response_len)),
        source=DEMONSTRATION, temperature=0.0))
  return out


def rank(prompt: Prompt, pool: Sequence[dict], labeler, draw, config
         ) -> Ranking:
  """One labeler ranks K of a prompt's candidates, in random order."""
  k = int(draw.integers(config.min_responses, config.max_responses + 1))
  chosen = [pool[i] for i in draw.permutation(len(pool))[:k]]
  ranks, metadata = labeler.rank(prompt, [c['text'] for c in chosen], draw)
  return Ranking(
      prompt=prompt, labeler=labeler.name, group=labeler.group,
      responses=tuple(c['text'] for c in chosen),
      response_tokens=tuple(c['tokens'] for c in chosen),
      sources=tuple(c['source'] for c in chosen),
      temperatures=tuple(c['temperature'] for c in chosen),
      ranks=tuple(ranks), metadata=tuple(metadata))


def collect(config, workdir, label: str = '') -> dict:
  """Samples candidates, sets the labelers' noise, writes the rankings."""
  validate(config)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  metrics_lib.write_config(workdir, config.to_dict())
  with metrics_lib.Progress('rankings', 3, label=label) as progress:
    opened = policies.Opener(config, workdir)
    world = lab.load_world(opened.input('lab'))
    labelers = lab.load_labelers(world)
    tok = opened.tok
    fit = lambda prompts: [p for p in prompts if tasks.fits(
        tasks.chat_prompt(tok, p.text), config.prompt_len)]
    read = lambda split: fit(
        lab_data.read_records(opened.input('lab'), 'prompts', split))
    prompts = {'train': read('train')[:config.num_prompts],
               'validation': read('validation')[:config.num_validation]}
    sources = [(name, t, opened.policy(name, config.response_len,
                                       step=config.steps.get(name, '')))
               for name, t in config.sources]
    groups = {g: [l for l in labelers if l.group == g]
              for g in ('train', 'heldout')}
    pools = {split: candidates(sources, data, groups['train'], config,
                               config.train_seed + (split != 'train') * 7919)
             for split, data in prompts.items()}
    progress.update(1, {'prompts': sum(map(len, prompts.values()))})

    # The noise is set on prompts of the training split, and measured on the
    # validation split.
    sample = lambda split, n: [
        (p, tuple(c['text'] for c in pool))
        for p, pool in zip(prompts[split][:n], pools[split])]
    labelers = labelers_lib.calibrate_noise(
        world, labelers, sample('train', config.num_calibration))
    groups = {g: [l for l in labelers if l.group == g] for g in groups}
    agreement = {}
    for name, group in groups.items():
      value, error, pairs = labelers_lib.agreement(
          group, sample('validation', config.num_calibration),
          world.seed)
      agreement[name] = {'agreement': value, 'standard_error': error,
                         'num_pairs': pairs}
    progress.update(2, {f'agreement/{g}': a['agreement']
                        for g, a in agreement.items()})

    records = {}
    for split in prompts:
      records[split] = []
      for name in ('train',) if split == 'train' else ('train', 'heldout'):
        for i, (prompt, pool) in enumerate(zip(prompts[split], pools[split])):
          draw = np.random.default_rng(
              [config.train_seed, 22, ('train', 'heldout').index(name), i,
               split != 'train'])
          labeler = groups[name][int(draw.integers(len(groups[name])))]
          records[split].append(rank(prompt, pool, labeler, draw, config))
    lab_data.write_records(
        workdir, 'rankings', records,
        fingerprint=metrics_lib.config_fingerprint(config.to_dict()))
    # The later stages meet the labelers with this noise.
    metrics_lib.atomic_write(workdir / 'noise.json', json.dumps(
        {l.name: float(l.noise) for l in labelers}, indent=2))
    progress.update(3)
  return {
      'labeler_agreement': agreement,
      'rankings': {split: len(r) for split, r in records.items()},
      'ties': float(np.mean([
          1 - len(set(r.ranks)) / len(r.ranks) for r in records['train']])),
      'pairs': int(sum(len(r.ranks) * (len(r.ranks) - 1) // 2
                       for r in records['train']))}
