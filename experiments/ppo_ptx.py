"""PPO-ptx: PPO with pretraining gradients mixed in (equation 2).

python -m instructrl.main --config=experiments/ppo_ptx.py:tiny --workdir=DIR/ppo_ptx
"""

from experiments import ppo


def get_config(arg='tiny'):
  c = ppo.get_config(arg)
  c.stage = 'ppo_ptx'
  c.ppo.ptx_coef = 27.8  # gamma (C.4)
  return c
