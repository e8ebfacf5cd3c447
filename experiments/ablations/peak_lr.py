r"""The policy's peak learning rate, with and without the mix (figure 38).

python -m instructrl.sweep --config=experiments/ablations/peak_lr.py:tiny \
    --workdir=DIR

The paper: seven rates from 2.55e-6 to 2.55e-5 (175B: two). Without pretraining
gradients the policy gets worse with the rate, and all runs above 8.05e-6
diverge. With them the result depends less on the rate.

Result of `tiny`, 4.74e-5 to 4.74e-4, three seeds: no run diverges. Without
pretraining gradients the judge's win rate against SFT is 54.0, 54.5, 55.4, 54.9
and 54.2% from the lowest rate to the highest, with them 54.6, 56.3, 56.9, 57.1
and 56.8%. From the rates up to the recipe's to the highest one it falls by 0.5
points without them (95% interval -0.8 to 1.8, undecided), by 1.3 points more
than with them (0.9 to 1.6, shown). Without them the loss on the corpus rises
from 0.839 to 0.880 nats, with them it falls from 0.803 to 0.756. A run takes
one (without) to three minutes of one core of an AMD EPYC server CPU, beside
another run.
"""

from experiments import ppo_ptx
from experiments.ablations import base

RATE, COEF = 'ppo_ptx.optimizer.peak_lr', 'ppo_ptx.ppo.ptx_coef'
PAPER = (2.55e-6, 3.74e-6, 5.5e-6, 8.05e-6, 1.18e-5, 1.74e-5, 2.55e-5)  # E.9
LARGEST = PAPER[:2]  # 175B
# Powers of the paper's step, 10^(1/6), times the recipe's rate: its decade.
STEPS = {
  'micro': (0, 6),
  'tiny': (-3, -1, 0, 1, 3),
  'small': tuple(range(-3, 4)),
}


def grid(size):
  if size in STEPS:
    recipe = ppo_ptx.get_config(size).optimizer.peak_lr
    return base.log_grid(recipe, 10 ** (1 / 6), STEPS[size])
  return LARGEST if size == '175b' else PAPER


def get_config(arg='tiny'):
  c = base.ppo(arg, people=True)
  c.plot.x, c.plot.by, c.plot.log = RATE, COEF, True
  c.plot.label = 'peak learning rate'
  values, gamma = grid(arg), c.stages.ppo_ptx.ppo.ptx_coef

  recipe = c.stages.ppo_ptx.optimizer.peak_lr
  low = tuple(v for v in values if v <= recipe)

  def lost(coef, sign=1):
    """Terms: the rates up to the recipe's minus the highest one."""
    return (
      (sign, {COEF: coef, RATE: low}),
      (-sign, {COEF: coef, RATE: values[-1]}),
    )

  # A run that diverged wins against nothing.
  shared = dict(
    measure=base.WIN_RATE, region='positive', diverged=0.0, unit='points'
  )
  loss = 'win rate lost from the rates up to the recipe’s to the highest one'
  c.expected = base.measured(
    c,
    shared
    | dict(
      statement='Without pretraining gradients a high rate ruins the policy',
      paper='all above 8.05e-6 diverge',
      terms=lost(0.0),
      quantity=f'{loss}, without pretraining gradients',
    ),
    shared
    | dict(
      statement='With pretraining gradients a high rate costs less',
      paper='less sensitive (Fig. 38)',
      terms=(*lost(0.0), *lost(gamma, -1)),
      quantity=f'{loss}, without minus with pretraining gradients',
    ),
  )
  return c


def sweep(add, config):
  for ptx_coef in (0.0, config.stages.ppo_ptx.ppo.ptx_coef):
    for peak_lr in grid(config.size):
      add({COEF: ptx_coef, RATE: peak_lr})
