r"""Episodes per iteration and minibatch, at equal total episodes (E.11).

python -m instructrl.sweep --config=experiments/ablations/batch_size.py:tiny \
    --workdir=DIR

The paper tried batches of 64 to 1,024 and minibatches of 8 to 64. A batch of
512 is best, and minibatches of 32 are slightly better than 64.
"""

from experiments.ablations import base

BATCH, MINIBATCH, ITERATIONS = (
  f'ppo_ptx.ppo.{name}'
  for name in ('batch_size', 'minibatch_size', 'num_iterations')
)
# Halves and doubles of the recipes' batch and minibatch: (16, 8), (64, 16).
BATCHES = {'micro': (16, 32), 'tiny': (32, 64, 128), 'small': (64, 256, 512)}
MINIBATCHES = {'micro': (8,), 'tiny': (8, 16, 32), 'small': (32, 64)}


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.by, c.plot.log = BATCH, MINIBATCH, True
  return c


def sweep(add, config):
  p = config.stages.ppo_ptx.ppo
  episodes = p.batch_size * p.num_iterations
  for batch in BATCHES.get(config.size, (64, 128, 256, 512, 1024)):
    for minibatch in MINIBATCHES.get(config.size, (8, 16, 32, 64)):
      add({BATCH: batch, MINIBATCH: minibatch, ITERATIONS: episodes // batch})
