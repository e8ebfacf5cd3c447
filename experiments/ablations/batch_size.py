r"""Episodes per iteration and minibatch, at equal total episodes (E.11).

python -m instructrl.sweep --config=experiments/ablations/batch_size.py:tiny \
    --workdir=DIR

The paper tried batches of 64 to 1,024 with a minibatch of 64, and minibatches
of 8 to 64 with a batch of 512. A batch of 512 is best, and minibatches of 32
are slightly better than 64, which it used.

Result of `tiny`, three seeds: the judge's ratings are 4.80, 4.79 and 4.77 with
16, 64 and 128 episodes per iteration; 64, the recipe's, minus 16 is -0.02 (95%
interval -0.09 to 0.06) and minus 128 0.01 (-0.07 to 0.10): undecided. With
minibatches of 8, 16 and 32 they are 4.77, 4.79 and 4.71; 8 minus 16 is -0.02
(-0.06 to 0.02): undecided. A run takes 157 s (the mean of 15) and its
evaluation 12 s, on one core of an AMD EPYC server CPU, beside another run.
"""

from experiments import ppo_ptx
from experiments.ablations import base

BATCH, MINIBATCH, ITERATIONS = (
  f'ppo_ptx.ppo.{name}'
  for name in ('batch_size', 'minibatch_size', 'num_iterations')
)
# Fractions of the recipe's batch (1/8 to 2 in the paper) and minibatch.
BATCHES = {'micro': (1, 2), 'tiny': (1 / 4, 1, 2), 'small': (1 / 4, 1, 2)}
MINIBATCHES = {'micro': (), 'tiny': (1 / 2, 2)}
PAPER = (1 / 8, 1 / 4, 1 / 2, 1, 2), (1 / 8, 1 / 4, 1 / 2)


def points(size):
  """Returns (batch, minibatch) of each point."""
  recipe = ppo_ptx.get_config(size).ppo
  batch, minibatch = recipe.batch_size, recipe.minibatch_size
  return (
    *((int(x * batch), minibatch) for x in BATCHES.get(size, PAPER[0])),
    *((batch, int(x * minibatch)) for x in MINIBATCHES.get(size, PAPER[1])),
  )


def get_config(arg='tiny'):
  c = base.ppo(arg, people=True)
  c.plot.x, c.plot.by, c.plot.log = BATCH, MINIBATCH, True
  c.plot.label = 'episodes per iteration'
  p = c.stages.ppo_ptx.ppo
  others = tuple(b for b, _ in points(arg) if b != p.batch_size)
  c.expected = base.measured(
    c,
    *(
      dict(
        statement=f'The recipe’s batch is better than one of {other}',
        paper='512 is best',
        measure=base.LIKERT,
        terms=(
          (1, {BATCH: p.batch_size, MINIBATCH: p.minibatch_size}),
          (-1, {BATCH: other, MINIBATCH: p.minibatch_size}),
        ),
        region='positive',
      )
      for other in others
    ),
    dict(
      statement='Half the minibatch is better',
      paper='32 is slightly better than 64',
      measure=base.LIKERT,
      terms=(
        (1, {BATCH: p.batch_size, MINIBATCH: p.minibatch_size // 2}),
        (-1, {BATCH: p.batch_size, MINIBATCH: p.minibatch_size}),
      ),
      region='positive',
    ),
  )
  return c


def sweep(add, config):
  p = config.stages.ppo_ptx.ppo
  episodes = p.batch_size * p.num_iterations
  for batch, minibatch in points(config.size):
    add({BATCH: batch, MINIBATCH: minibatch, ITERATIONS: episodes // batch})
