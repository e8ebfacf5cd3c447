r"""PPO-ptx: PPO with pretraining gradients mixed in (equation 2).

python -m instructrl.main --config=experiments/ppo_ptx.py:tiny \
    --workdir=DIR/ppo_ptx
"""

from experiments import ppo


def get_config(arg='tiny'):
  c = ppo.get_config(arg)
  c.stage = 'ppo_ptx'
  # The paper's gamma is 27.8 (C.4). In small models the norm of the pretraining
  # gradient is a third of PPO's; with 27.8, clipping would remove PPO's part.
  c.ppo.ptx_coef = 2.0 if arg in ('micro', 'tiny') else 27.8
  return c
