"""PPO-ptx: PPO with pretraining gradients mixed in (equation 2).

python -m instructrl.main --config=experiments/ppo_ptx.py:tiny --workdir=DIR/ppo_ptx
"""

from experiments import ppo


def get_config(arg='tiny'):
  c = ppo.get_config(arg)
  c.stage = 'ppo_ptx'
  # The paper's gamma is 27.8 (C.4). The gradients of a model this small have
  # other norms: pretraining's is a third of PPO's here, and with 27.8 clipping
  # would leave nothing of PPO.
  c.ppo.ptx_coef = 2.0 if arg in ('micro', 'tiny') else 27.8
  return c
