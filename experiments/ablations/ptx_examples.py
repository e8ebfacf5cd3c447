r"""Pretraining examples per episode (appendix E.11).

python -m instructrl.sweep --config=experiments/ablations/ptx_examples.py:tiny \
    --workdir=DIR

The paper, with gamma fixed: with 4 the pretraining loss often rises during
training; 8 takes twice the time of no pretraining gradients; 32 has better
ratings and takes several times as long. The recipe of a laptop has 1, the
fewest, and its grid only more. Seconds compare only if one run has the machine
at a time (`--parallel=1`).

Result of `tiny`, three seeds: with 1 example per episode the loss on the corpus
falls by 0.057 nats (95% interval 0.053 to 0.061), so that the fewest are enough
here: the rise is not shown. With 4 the judge's ratings are higher by 0.02
(-0.14 to 0.18): undecided. A run takes 58 s without pretraining gradients, 155
s with 1 example and 413 s with 4, on one core of an AMD EPYC server CPU, beside
another run; its evaluation takes 12 s.
"""

from experiments.ablations import base

FIELD, COEF = (
  f'ppo_ptx.ppo.{name}' for name in ('ptx_examples_per_episode', 'ptx_coef')
)
RATE = 'ppo_ptx.optimizer.peak_lr'
GRID = {'micro': (1,), 'tiny': (1, 4), 'small': (1, 2, 4)}
PAPER = (4, 8, 32)
RISE, SECONDS = 'rise of the loss on the corpus, nats', 'seconds'


def get_config(arg='tiny'):
  c = base.ppo(
    arg,
    people=True,
    measures=(
      (RISE, 'ppo_ptx', 'metrics.jsonl', 'pretrain/nll@rise'),
      (SECONDS, 'ppo_ptx', 'DONE', 'seconds'),
    ),
  )
  c.plot.x, c.plot.by, c.plot.log = FIELD, COEF, True
  c.plot.label = 'pretraining rows per episode'
  few, *_, many = (*GRID.get(arg, PAPER),) * 2
  gamma = c.stages.ppo_ptx.ppo.ptx_coef
  at = lambda examples, coef=gamma: {FIELD: examples, COEF: coef}
  c.expected = base.measured(
    c,
    dict(
      statement='With the fewest examples the pretraining loss rises',
      paper='often rises with 4',
      measure=RISE,
      terms=((1, at(few)),),
      region='positive',
      unit='nats',
    ),
    dict(
      statement='More examples have better ratings',
      paper='32 better than 8',
      measure=base.LIKERT,
      terms=((1, at(many)), (-1, at(few))),
      region='positive',
    ),
    dict(
      statement='The most examples take longer',
      paper='several times as long',
      measure=SECONDS,
      terms=((1, at(many)), (-1, at(few))),
      region='positive',
      unit='s',
    ),
  )
  return c


def sweep(add, config):
  recipe = config.stages.ppo_ptx.ppo
  # For the time. Without pretraining gradients PPO-ptx's rate may diverge.
  rate = config.stages.ppo.optimizer.peak_lr
  slower = rate != config.stages.ppo_ptx.optimizer.peak_lr
  add(
    {FIELD: recipe.ptx_examples_per_episode, COEF: 0.0}
    | ({RATE: rate} if slower else {})
  )
  for examples in GRID.get(config.size, PAPER):
    add({FIELD: examples, COEF: recipe.ptx_coef})
