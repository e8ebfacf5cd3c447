"""Estimates how long a study will take, before it begins to train.

Tokens are counted from the data and the configs (with the padding of ranking
batches), and FLOPs from the tokens (see `flops`). The time follows from the
speed of a matrix product on this machine. It is a rough estimate; the progress
bars show a measured one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib

from instructrl.data import pipeline
from instructrl.data.folder import DataFolder
from instructrl.planning import flops
from instructrl.rewards import rewards_settings
from instructrl.runtime import progress
from instructrl.runtime import run_folder
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import inputs
from instructrl.stages import policy_settings
from instructrl.stages import ranking_batches
from instructrl.stages import ranking_parts

# Shares of a matrix product's speed that the functions of a stage reach,
# measured on two CPU cores, with SFT steps (0.49) and PPO iterations. Sampling
# reaches less on an accelerator, because each token reads all weights.
SAMPLING, READING, TRAINING = 0.4, 0.7, 0.5
LANGUAGE_MODELS = ('pretrain', 'sft', 'ppo_init')


@dataclasses.dataclass(frozen=True)
class Cost:
  """The tokens and FLOPs of a stage."""

  stage: str
  sampled: int = 0  # tokens
  read: int = 0  # tokens in forward passes
  trained: int = 0  # tokens in forward and backward passes
  sampling: float = 0.0  # FLOPs
  reading: float = 0.0  # FLOPs
  training: float = 0.0  # FLOPs

  def seconds(self, peak: float) -> float:
    """Returns the time if a matrix product reaches `peak` FLOP/s."""
    forward = self.sampling / SAMPLING + self.reading / READING
    return (forward + self.training / TRAINING) / peak


def costs(configs: Mapping[str, object], workdir) -> list[Cost]:
  """Returns the costs of the stages that train or sample.

  Args:
    configs: stage -> its resolved config.
    workdir: the folder of the study; its data must exist.
  """
  workdir = pathlib.Path(workdir)
  found = []
  for name, config in configs.items():
    folder = workdir / name
    if config.stage in LANGUAGE_MODELS:
      found.append(_language_model(name, config, folder))
    elif 'max_responses' in config and 'model' in config:
      found.append(_rankings(name, config, folder))
    elif 'ppo' in config:
      found.append(_ppo(name, config, folder))
    elif config.stage == 'evaluation':
      found.append(_evaluation(name, config, configs))
  return found


def _data(config, folder):
  """Returns the data folder and its tokenizer."""
  data = DataFolder(inputs.input_path(config, folder, 'data'))
  return data, _tokenizer(data)


@functools.lru_cache(maxsize=1)  # all stages of a study have the same
def _tokenizer(data: DataFolder):
  return data.tokenizer()


def _language_model(name: str, config, folder) -> Cost:
  data, tok = _data(config, folder)
  rows = data.rows(config.rows)
  count = len(pipeline.lm_examples(rows, config.batch_unit))
  steps = config.num_steps or config.num_epochs * pipeline.epoch_steps(
    count, config.batch_size, 1 / (1 - config.pretrain_mix)
  )
  length = rows.header['row_len']
  tokens = steps * config.batch_size * length
  module = build.make_model(config, tok.vocab_size).module
  return Cost(
    name, trained=tokens, training=flops.trained(module, tokens, length, tokens)
  )


def _rankings(name: str, config, folder) -> Cost:
  """Counts training on rankings.

  A policy, unlike a reward model, also needs logits and the log-probabilities
  of its reference.
  """
  _, tok = _data(config, folder)
  module = build.make_model(config, tok.vocab_size).module
  path = inputs.input_path(config, folder, 'rankings')
  elements = DataFolder(path, 'inputs.rankings').ranked('train', tok)
  elements = elements.where(elements.prompt_lengths <= config.prompt_len)
  checks.require(
    bool(elements),
    f'{name}: no training ranking of inputs.rankings fits '
    f'prompt_len={config.prompt_len}',
  )
  batches = ranking_batches.training_batches(config, elements, tok)
  epoch = pipeline.epoch_steps(len(elements), config.batch_size)
  steps = config.get('num_steps') or config.num_epochs * epoch
  lengths = elements.lengths
  widths = ranking_parts.widths(lengths)
  rows = ranking_parts.rows(config.batch_size, widths, config.microbatch_size)
  parts = [
    ranking_parts.part_widths(lengths[batches.all_indices(step)], widths, rows)
    for step in range(steps)
  ]
  policy = 'logits_chunk' in config

  def total(count, widths):
    """Adds up the FLOPs of one part of each width."""
    tokens = [(rows * n, n) for n in widths]
    return sum(count(module, some, n, some * policy) for some, n in tokens)

  join = itertools.chain.from_iterable
  reference, trained = [*join(parts[: epoch * policy])], [*join(parts)]
  return Cost(
    name,
    read=rows * sum(reference),
    trained=rows * sum(trained),
    reading=total(flops.forward, reference),
    training=total(flops.trained, trained),
  )


def _ppo(name: str, config, folder) -> Cost:
  p = config.ppo
  data, tok = _data(config, folder)
  policy = build.make_model(config, tok.vocab_size).module
  scalar = build.make_model(config, tok.vocab_size, 'value_model').module
  terms = rewards_settings.read(config.rewards.to_dict()).values()
  num_rewards = sum(term.kind == 'model' for term in terms)
  episodes = p.batch_size * p.num_iterations
  tokens = episodes * (p.prompt_len + p.response_len)
  row_len = data.rows('corpus.rows').header['row_len'] if p.ptx_coef else 0
  ptx_tokens = episodes * p.ptx_examples_per_episode * row_len
  count = flops.ppo(policy, scalar, p, num_rewards=num_rewards, ptx_len=row_len)
  return Cost(
    name,
    sampled=episodes * p.response_len,
    read=(2 + num_rewards) * tokens,
    trained=p.num_ppo_epochs * (2 * tokens + ptx_tokens),
    sampling=p.num_iterations * count['generate'],
    reading=p.num_iterations * count['score'],
    training=p.num_iterations * count['update'],
  )


def _evaluation(name: str, config, configs) -> Cost:
  """Counts the answers of all policies; scoring them takes as long again."""
  stage = next(c for c in configs.values() if 'model' in c)
  module = build.make_model(stage, 1).module
  prompts = sum(c.get('num_prompts', 0) for c in evals.chosen(config).values())
  answers = len(policy_settings.named(config)) * prompts
  length = config.prompt_len + config.response_len
  arithmetic = flops.forward(module, answers * length, length)
  return Cost(
    name,
    sampled=answers * config.response_len,
    read=2 * answers * length,
    sampling=arithmetic,
    reading=2 * arithmetic,
  )


def table(found: Sequence[Cost], workdir, peak: float) -> str:
  """Returns a text table with the time that is left.

  Args:
    found: the cost of each stage.
    workdir: the folder of the study; finished stages take no more time.
    peak: FLOP/s of a matrix product on this machine.
  """
  lines = [
    f'{"planned":<10}{"sampled":>11}{"read":>12}{"trained":>12}'
    f'{"TFLOP":>10}  about'
  ]
  left = 0.0
  for cost in found:
    done = run_folder.read_done(pathlib.Path(workdir) / cost.stage)
    seconds = cost.seconds(peak)
    left += 0.0 if done else seconds
    total = cost.sampling + cost.reading + cost.training
    when = 'finished' if done else progress.format_seconds(seconds)
    lines.append(
      f'{cost.stage:<10}{cost.sampled:>11,}{cost.read:>12,}'
      f'{cost.trained:>12,}{total / 1e12:>10,.1f}  {when}'
    )
  lines.append(
    f'in tokens; about {progress.format_seconds(left)} are left, and some '
    f'minutes to compile. A matrix product\nreaches {peak / 1e12:.2f} TFLOP/s '
    f'here; the estimate is {SAMPLING:.0%} of it in sampling,\n{READING:.0%} '
    f'in reading (forward passes) and {TRAINING:.0%} in training'
  )
  return '\n'.join(lines)
