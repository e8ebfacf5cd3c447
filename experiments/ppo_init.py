"""The model PPO starts from and stays near (appendix C.3).

Demonstrations with 10% pretraining data mixed in.

python -m instructrl.main --config=experiments/ppo_init.py:tiny --workdir=DIR/ppo_init
"""

from experiments import sft


def get_config(arg='tiny'):
  c = sft.get_config(arg)
  c.stage = 'ppo_init'
  if arg != 'tiny':  # which needs as many as SFT has
    c.num_epochs = 2  # C.3
  c.checkpoint.keep = 2
  c.pretrain_mix = 0.1  # C.3
  c.model.dropout = 0.0  # not printed for this stage
  return c
