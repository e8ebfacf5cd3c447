"""What a study on real data is going to compute, told before it begins.

Tokens are counted from the data and the configs (of rankings with those that
pad a batch), arithmetic from the tokens (see `flops`), and the time from the
speed of a matrix product on this machine: a rough figure, which the progress
bars replace by a measured one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

from instructrl.data import pipeline
from instructrl.data.folder import DataFolder
from instructrl.planning import flops
from instructrl.runtime import progress
from instructrl.runtime import run_folder
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import heldout
from instructrl.stages import inputs
from instructrl.stages import reward

# Shares of a matrix product's speed that the functions of a stage reach: on two
# CPU cores the study's own SFT steps have 0.49 of it and a PPO iteration takes
# as long as these say. An accelerator samples, which reads all weights for
# every token, at a smaller share.
SAMPLING, READING, TRAINING = 0.4, 0.7, 0.5
LANGUAGE_MODELS = ('pretrain', 'sft', 'ppo_init')


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a stage computes: tokens, and FLOPs by kind."""

  stage: str
  sampled: int = 0  # tokens
  read: int = 0  # tokens of forward passes
  trained: int = 0  # tokens of forward and backward passes
  sampling: float = 0.0  # FLOPs
  reading: float = 0.0
  training: float = 0.0

  def seconds(self, peak: float) -> float:
    """At a speed of `peak` FLOP/s of a matrix product."""
    return (
      self.sampling / SAMPLING
      + self.reading / READING
      + self.training / TRAINING
    ) / peak


def costs(configs: Mapping[str, object], workdir) -> list[Cost]:
  """Those of the stages that train or sample, once their data are there.

  Args:
    configs: stage -> its resolved config.
    workdir: of the study.
  """
  workdir = pathlib.Path(workdir)
  found = []
  for name, config in configs.items():
    folder = workdir / name
    if config.stage in LANGUAGE_MODELS:
      found.append(_language_model(name, config, folder))
    elif config.stage == 'reward':
      found.append(_reward(name, config, folder))
    elif 'ppo' in config:
      found.append(_ppo(name, config, folder))
    elif config.stage == 'heldout':
      found.append(_heldout(name, config, configs))
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
  steps = config.num_steps or config.num_epochs * pipeline.epoch_steps(
    len(rows), config.batch_size, 1 / (1 - config.pretrain_mix)
  )
  length = rows.header['row_len']
  tokens = steps * config.batch_size * length
  module = build.make_model(config, tok.vocab_size).module
  return Cost(
    name, trained=tokens, training=flops.trained(module, tokens, length, tokens)
  )


def _reward(name: str, config, folder) -> Cost:
  _, tok = _data(config, folder)
  module = build.make_model(config, tok.vocab_size).module
  path = inputs.input_path(config, folder, 'rankings')
  records = DataFolder(path, 'inputs.rankings').records('rankings', 'train')
  elements, _ = pipeline.ranking_tokens(
    records, tok, prompt_len=config.prompt_len
  )
  checks.require(
    bool(elements),
    f'{name}: no training ranking of '
    f'inputs.rankings fits prompt_len={config.prompt_len}',
  )
  _, columns = reward.training_batches(config, elements, tok)
  steps = config.num_epochs * pipeline.epoch_steps(
    len(elements), config.batch_size
  )
  widths = [columns(step) for step in range(steps)]
  return Cost(
    name,
    trained=config.batch_size * sum(widths),
    training=sum(
      flops.trained(module, config.batch_size * n, n) for n in widths
    ),
  )


def _ppo(name: str, config, folder) -> Cost:
  p = config.ppo
  data, tok = _data(config, folder)
  policy = build.make_model(config, tok.vocab_size).module
  scalar = build.make_model(config, tok.vocab_size, 'value_model').module
  episodes = p.batch_size * p.num_iterations
  length = p.prompt_len + p.response_len
  tokens, responses = episodes * length, episodes * p.response_len
  epochs = p.num_ppo_epochs
  training = epochs * (
    flops.trained(policy, tokens, length, responses)
    + flops.trained(scalar, tokens, length)
  )
  trained = 2 * epochs * tokens
  if p.ptx_coef:
    row_len = data.rows('corpus.rows').header['row_len']
    more = epochs * episodes * p.ptx_examples_per_episode * row_len
    trained += more
    training += flops.trained(policy, more, row_len, more)
  return Cost(
    name,
    sampled=responses,
    read=3 * tokens,
    trained=trained,
    sampling=flops.forward(policy, tokens, length, responses),
    reading=flops.forward(policy, tokens, length, responses)
    + 2 * flops.forward(scalar, tokens, length),
    training=training,
  )


def _heldout(name: str, config, configs) -> Cost:
  """Of the answers; what scores them is as long again, and not counted."""
  stage = next(c for c in configs.values() if 'model' in c)
  module = build.make_model(stage, 1).module
  length = config.prompt_len + config.response_len
  policies = sum(bool(config.inputs[p]) for p in heldout.POLICIES)
  tokens = policies * config.num_prompts * length
  responses = policies * config.num_prompts * config.response_len
  flops_of_answers = flops.forward(module, tokens, length)
  return Cost(
    name,
    sampled=responses,
    read=2 * tokens,
    sampling=flops_of_answers,
    reading=2 * flops_of_answers,
  )


def table(found: Sequence[Cost], workdir, peak: float) -> str:
  """The plan as text, with the time that is left.

  Args:
    found: of each stage.
    workdir: of the study; finished stages take no more time.
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
    f'tokens; at the {peak / 1e12:.2f} TFLOP/s of a matrix product here, and '
    f'{SAMPLING:.0%} of it in\nsampling, {READING:.0%} in reading and '
    f'{TRAINING:.0%} in training, about '
    f'{progress.format_seconds(left)} are left,\nand some minutes more '
    'to compile'
  )
  return '\n'.join(lines)
