r"""Where PPO starts: its epochs and its pretraining mix (figure 37, E.8).

python -m instructrl.sweep --config=experiments/ablations/init_mix.py:tiny \
    --workdir=DIR

The paper's Likert ratings: 3.85, 4.0 and 3.85 with a mix of 0, 10 and 50% after
one epoch, 3.9 with 0% after two; the intervals overlap. The start that it
chose, 10% and two epochs, is no bar of the figure; it is a point here.

Result of `tiny`, three seeds: after 8 epochs the judge's ratings of PPO-ptx are
4.35 with a mix of 0, 4.56 with 10% and 4.57 with 50%. 10% is above 0 by 0.21
(95% interval 0.01 to 0.41): shown; it is above 50% by -0.01 (-0.30 to 0.28):
undecided. After 16 epochs they are 4.46 with 0 and 4.74 with 10%. Without a mix
the policy also moves farther from its start (KL 1.5 and 3.1 nats; 0.5 with
10%). Training the start takes 76 s (the mean of 15), PPO-ptx 149 s and its
evaluation 13 s, on one core of an AMD EPYC server CPU, beside another run.
"""

from experiments.ablations import base

EPOCHS, MIX = 'ppo_init.num_epochs', 'ppo_init.pretrain_mix'
# The recipe of a laptop has 16 epochs; the paper's has two.
EPOCHS_GRID = {'tiny': (8, 16)}


def get_config(arg='tiny'):
  c = base.ppo(arg, people=True)
  c.seeded = ('ppo_init', 'ppo_ptx')
  c.plot.x, c.plot.by = MIX, EPOCHS
  c.plot.label = 'pretraining mix of PPO’s start'
  few, _ = EPOCHS_GRID.get(arg, (1, 2))
  c.expected = base.measured(
    c,
    *(
      dict(
        statement=f'A mix of 10% is better than {name}',
        paper='4.0 against 3.85; the intervals overlap',
        measure=base.LIKERT,
        terms=((1, {MIX: 0.1, EPOCHS: few}), (-1, {MIX: mix, EPOCHS: few})),
        region='positive',
      )
      for name, mix in (('none', 0.0), ('half', 0.5))
    ),
  )
  return c


def sweep(add, config):
  few, many = EPOCHS_GRID.get(config.size, (1, 2))
  points = [(few, 0.0), (few, 0.1), (few, 0.5), (many, 0.0), (many, 0.1)]
  if config.size == 'micro':
    points = points[3:]
  for num_epochs, pretrain_mix in points:
    add({EPOCHS: num_epochs, MIX: pretrain_mix})
