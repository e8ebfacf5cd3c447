"""The numbers of PPO: default, bounds, unit and source of each.

The defaults are those of the paper (Ouyang et al. 2022, section 3.5 and
appendix C.4). experiments/ppo.py starts from them and changes what a size of
model needs; the `ppo` stage checks them.

Imports the standard library and *_settings modules only, so that the
experiments can import this module.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from instructrl.stages.field_settings import declare


@dataclasses.dataclass(frozen=True)
class Settings:
  """The fields of `config.ppo`."""

  batch_size: int = declare(512, 'episodes per iteration (C.4)', low=1)
  minibatch_size: int = declare(64, 'episodes per optimizer step (C.4)', low=1)
  num_iterations: int = declare(500, 'iterations: 256k episodes (C.4)', low=1)
  num_ppo_epochs: int = declare(1, 'inner epochs per iteration (C.4)', low=1)
  prompt_len: int = declare(
    1024, 'tokens of a prompt, at most (appendix C)', low=1
  )
  response_len: int = declare(
    1024, 'tokens of a response, at most (appendix C)', low=1
  )
  microbatch_size: int = declare(
    0,
    'rows of prompt_len + response_len columns per gradient; rows are packed '
    'with episodes; 0 = the fewest that fill a device (packing.MIN_COLUMNS)',
    low=0,
  )
  generate_microbatch_size: int = declare(
    0, 'episodes sampled at once without slots; 0 = batch_size', low=0
  )
  rollout_slots: int = declare(
    0,
    'episodes sampled at once; an episode that ends makes room for a waiting '
    'one; 0 = no slots: all end together',
    low=0,
  )
  score_microbatch_size: int = declare(
    0, 'packed rows scored at once; 0 as in microbatch_size', low=0
  )
  temperature: float = declare(
    1.0,
    'of sampling (C.4); 0, the greedy policy, does not explore',
    above=0,
    below=math.inf,
  )
  top_p: float = declare(
    1.0,
    'only 1 is allowed: PPO needs the log-probs of the whole distribution',
    low=1,
    high=1,
  )
  kl_coef: float = declare(
    0.02, "the paper's beta: score per nat of KL (C.4)", low=0, below=math.inf
  )
  adaptive_kl_target: float = declare(
    0.0,
    'nats per response; 0 = a fixed kl_coef (Ziegler et al. 2019)',
    low=0,
    below=math.inf,
  )
  adaptive_kl_horizon: float = declare(
    10_000.0, 'episodes (Ziegler et al. 2019)', low=0, below=math.inf
  )
  ptx_coef: float = declare(
    0.0,
    "the paper's gamma; 0 is PPO, 27.8 its PPO-ptx (C.4)",
    low=0,
    below=math.inf,
  )
  ptx_examples_per_episode: int = declare(
    8, 'rows of pretraining data per episode (C.4)', low=0
  )
  ptx_microbatch_size: int = declare(
    0, 'rows per gradient; 0 = all of a minibatch', low=0
  )
  discount: float = declare(
    1.0,
    "per token (appendix C.4); the paper's gamma is ppo.ptx_coef",
    low=0,
    high=1,
  )
  gae_lambda: float = declare(0.95, "not printed; the field's", low=0, high=1)
  clip_eps: float = declare(
    0.2, 'clip range of the ratio (C.4)', above=0, below=1
  )
  value_clip_eps: float = declare(
    0.2, "clip range of values, in score; not printed, the field's", above=0
  )
  whiten_advantages: bool = declare(
    True, "over the iteration's batch; not printed, the field's"
  )
  ema_decay: float = declare(
    0.992, "of the policy's average, per optimizer step (C.4)", low=0, below=1
  )
  missing_eos: str = declare(
    'none',
    'change of the score of a response without an end',
    choices=('none', 'penalty', 'fixed'),
  )
  missing_eos_amount: float = declare(
    0.0,
    "subtracted from that score ('penalty'), or put for it ('fixed')",
    above=-math.inf,
    below=math.inf,
  )
  logits_chunk: int = declare(
    65_536,
    'tokens whose logits are in memory at once, on all devices together; a '
    'chunk that gives a device little to do gathers the unembedding for it '
    'all the same; 0 = all',
    low=0,
  )
  warmup_iterations: int = declare(
    10, 'iterations from 0.1 of the peak rate to the peak (C.4)', low=0
  )

  @property
  def num_minibatches(self) -> int:
    """Optimizer steps per inner epoch."""
    return self.batch_size // self.minibatch_size

  @property
  def updates_per_iteration(self) -> int:
    """Optimizer steps per iteration."""
    return self.num_minibatches * self.num_ppo_epochs

  @property
  def num_updates(self) -> int:
    """Optimizer steps of the whole run."""
    return self.num_iterations * self.updates_per_iteration


def defaults() -> dict[str, Any]:
  """Returns the fields with their defaults."""
  return dataclasses.asdict(Settings())


def faults(values: Mapping[str, Any], prefix: str = 'ppo.') -> list[str]:
  """Returns one message for each field that is out of bounds.

  Args:
    values: value of each field of `Settings`.
    prefix: shown before a field's name.
  """
  found = []
  for field in dataclasses.fields(Settings):
    fault = field.metadata['bounds'].fault(
      prefix + field.name, values[field.name]
    )
    if fault:
      found.append(f'{fault} ({field.metadata["doc"]})')
  return found or _misfits(Settings(**values), prefix)


def _misfits(s: Settings, prefix: str) -> list[str]:
  """Returns a message for each pair of fields that do not fit each other."""
  found = []
  ptx_rows = s.minibatch_size * s.ptx_examples_per_episode
  for part, whole, size in (
    ('minibatch_size', 'batch_size', s.batch_size),
    ('microbatch_size', 'minibatch_size', s.minibatch_size),
    ('generate_microbatch_size', 'batch_size', s.batch_size),
    ('score_microbatch_size', 'batch_size', s.batch_size),
    *(
      [('ptx_microbatch_size', 'pretraining rows of a minibatch', ptx_rows)]
      if s.ptx_coef
      else []
    ),
  ):
    value = getattr(s, part)
    if value and size % value:
      found.append(
        f'{prefix}{part} must divide the {whole}, {size}; got {value}'
      )
  if s.rollout_slots and s.generate_microbatch_size:
    found.append(
      f'{prefix}generate_microbatch_size must be 0 with '
      f'{prefix}rollout_slots={s.rollout_slots}; got '
      f'{s.generate_microbatch_size}'
    )
  if s.ptx_coef and not s.ptx_examples_per_episode:
    found.append(
      f'{prefix}ptx_examples_per_episode must be at least 1 with '
      f'{prefix}ptx_coef={s.ptx_coef}; got 0'
    )
  if s.adaptive_kl_target and not s.adaptive_kl_horizon:
    found.append(
      f'{prefix}adaptive_kl_horizon must be greater than 0 with '
      f'{prefix}adaptive_kl_target={s.adaptive_kl_target}; got 0'
    )
  return found


def warning(values: Mapping[str, Any], prefix: str = 'ppo.') -> str:
  """Returns a warning if the average of a short run keeps much of its start.

  Args:
    values: value of each field of `Settings`, without faults.
    prefix: shown before a field's name.
  """
  s = Settings(**values)
  kept = s.ema_decay**s.num_updates
  if kept <= 1 / 16:  # after four half-lives
    return ''
  half_life = math.log(0.5) / math.log(s.ema_decay)
  return (
    f'{prefix}ema_decay={s.ema_decay} has a half-life of {half_life:.0f} '
    f'updates, and the run has only {s.num_updates}: {kept:.0%} of its average '
    f'is still the start. {s.ema_decay} is used; '
    f'{0.5 ** (4 / s.num_updates):.2g} would have four half-lives'
  )
