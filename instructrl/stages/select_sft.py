"""Selection of the SFT epoch with the best reward-model score (appendix C.1).

Validation loss overfits after one epoch while the score keeps rising; the paper
selects by the score on validation prompts.
"""

import math
import pathlib

import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.evaluators import statistics
from instructrl.runtime import metrics
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import policies
from instructrl.stages import scoring

STAGES = ('select_sft',)


def validate(config) -> None:
  """Raises a ConfigError that names the field if a config is invalid."""
  checks.validate_common(config)
  checks.positive(
    config, 'num_prompts', 'prompt_len', 'response_len', 'batch_size'
  )
  checks.require(
    0 <= config.temperature < math.inf,
    f'temperature={config.temperature} must be finite and 0 or more',
  )


def run(config, workdir, label: str = '') -> dict:
  """Scores every kept SFT checkpoint. The result names the best step."""
  validate(config)
  workdir = pathlib.Path(workdir)
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
  with policies.Opener(config, workdir) as opened:
    return _select(config, opened, label)


def _select(config, opened: policies.Opener, label: str) -> dict:
  sft = opened.input('sft')
  with Checkpointer(sft / 'checkpoints') as saved:
    steps = saved.steps()
  losses = {
    line['step']: line['loss/validation']
    for line in metrics.read_metrics(sft)
    if 'loss/validation' in line
  }
  prompts = opened.prompts('validation', config.prompt_len)
  prompts = prompts[: config.num_prompts]
  tokens = [tasks.chat_prompt(opened.tok, prompt) for prompt in prompts]
  params, scorer, _ = scoring.load_scorer(opened)
  table, scores = [], {}
  with Progress(
    config.stage,
    len(steps),
    label=label,
    unit='epoch',
    primary=processes.primary(),
  ) as progress:
    for i, step in enumerate(steps):
      policy = opened.policy('sft', config.response_len, step=str(step))
      responses = policy.sample_tokens(
        prompts,
        temperature=config.temperature,
        seed=config.train_seed,
        purpose=rng.Purpose.CANDIDATES,
      )
      scores[i + 1] = np.asarray(scorer(params, tokens, responses), np.float64)
      score = float(np.mean(scores[i + 1]))
      table.append(
        {
          'step': step,
          'epoch': i + 1,
          'rm_score': score,
          'validation_loss': losses.get(step),
        }
      )
      progress.update(i + 1, {'rm_score': score})
  best = max(table, key=lambda row: row['rm_score'])
  return {
    'epochs': table,
    'selected_step': best['step'],
    'selected_epoch': best['epoch'],
    'selected_score': best['rm_score'],
    'last_score': table[-1]['rm_score'],
    'num_prompts': len(prompts),
    'score_rise': score_rise(table, scores, config.eval_seed),
  }


def score_rise(table, scores, seed: int) -> dict | None:
  """Returns how much the score rises after the best validation loss.

  Args:
    table: 'epoch' and 'validation_loss' of each epoch, in order.
    scores: epoch -> scores [N] of its answers to the same N prompts.
    seed: of the bootstrap.

  Returns:
    {'from': epoch of the best loss, 'epoch': the last one, 'value': its mean
    score minus that of `from`, 'ci95': paired over prompts, 'n'}; None if no
    epoch follows the best one.
  """
  measured = [row for row in table if row['validation_loss'] is not None]
  if not measured:
    return None
  best = min(measured, key=lambda row: row['validation_loss'])['epoch']
  last = table[-1]['epoch']
  if best == last:
    return None
  _, found = statistics.compare(
    {epoch: statistics.mean(scores[epoch]) for epoch in (best, last)}, seed=seed
  )
  return {'from': best, 'epoch': last, **found[last][best]}
