r"""PPO-ptx: PPO with pretraining gradients mixed in (equation 2).

python -m instructrl.main --config=experiments/ppo_ptx.py:tiny \
    --workdir=DIR/ppo_ptx
"""

from experiments import ppo

# Peak learning rates of the policy: the best bars of Fig. 38 (E.9), read by eye
# (at 6B a near tie). The paper has no 125M.
PEAK_LR = {'125m': 1.18e-5, '1.3b': 1.18e-5, '6b': 1.18e-5, '175b': 2.55e-6}


def get_config(arg='tiny'):
  c = ppo.get_config(arg)
  c.stage = 'ppo_ptx'
  c.optimizer.peak_lr = PEAK_LR.get(arg, c.optimizer.peak_lr)
  # The paper's gamma is 27.8 (C.4). In small models the norm of the pretraining
  # gradient is a third of PPO's; with 27.8, clipping would remove PPO's part.
  c.ppo.ptx_coef = 2.0 if arg in ('micro', 'tiny') else 27.8
  return c
