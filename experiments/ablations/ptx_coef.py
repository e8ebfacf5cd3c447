r"""Pretraining coefficient, gamma in equation 2 (figure 33).

python -m instructrl.sweep --config=experiments/ablations/ptx_coef.py:tiny \
    --workdir=DIR

The paper, at 1.3B: SQuADv2 rises from 52 to 61 F1 and DROP from 18 to 26.5, and
both reach GPT-3 for gamma of 20 or more. The validation reward falls from -0.61
to -0.85 at 27.8 and to -1.55.

Result of `tiny`, gamma 0.093 to 15.5: reading rises from 0.58 to 0.67 F1 and
stays below the pretrained model (0.70), translation rises from 57 to 69 BLEU,
the loss on the corpus falls from 0.83 to 0.75 nats. Arithmetic depends little
on gamma. The validation reward falls by 0.022 (95% interval -0.044 to 0.088),
which is undecided. The 18 runs take 47 minutes of one core and their
evaluations 11, on an AMD EPYC server CPU with a run on each of two cores.
"""

from experiments import ppo_ptx
from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.ptx_coef'
# Powers of 10^(2/9), times the recipe's gamma: 0.46 to 129 in the paper. A
# laptop takes every second value of two decades.
STEPS = {'micro': (-6, 0), 'tiny': (-6, -4, -2, 0, 2, 4)}
PAPER = range(-8, 4)


def grid(size):
  recipe = ppo_ptx.get_config(size).ppo.ptx_coef
  return base.log_grid(recipe, 10 ** (2 / 9), STEPS.get(size, PAPER))


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.log = FIELD, True
  c.plot.label = 'pretraining coefficient, gamma'
  values = grid(arg)
  recipe = c.stages.ppo_ptx.ppo.ptx_coef
  low, high = values[0], tuple(v for v in values if v >= recipe)
  expected = [
    base.fall(
      base.REWARD,
      FIELD,
      values[-1],
      low,
      'A large gamma costs validation reward',
      '-0.61 to -1.55',
    )
  ]
  if c.lines:
    for title, paper in base.papers(
      ('52 to 61, GPT 59', '18 to 26.5, GPT 25.4')
    ):
      expected += [
        base.rise(
          title,
          FIELD,
          high,
          low,
          f'{title} rises with gamma',
          paper,
          unit='points',
        ),
        base.against(
          title,
          {FIELD: low},
          f'{title} is below the pretrained model at a small gamma',
          paper,
          unit='points',
        )
        | dict(region='negative'),
        base.against(
          title,
          {FIELD: high},
          f"{title} reaches the pretrained model from the recipe's gamma on",
          paper,
          unit='points',
        ),
      ]
  c.expected = tuple(expected)
  return c


def sweep(add, config):
  for ptx_coef in grid(config.size):
    add({FIELD: ptx_coef})
