r"""Trains the initial policy and KL reference of PPO (appendix C.3).

The data are demonstrations mixed with 10% pretraining data. The paper prints no
unit of the 10%. Here one row of a batch in ten is packed pretraining text. All
its tokens are targets, while demonstrations have their responses only, so its
share of the loss is larger: 84% at the paper's sizes, by the mean lengths of
Table 11, and 21% at :tiny, whose demonstrations are packed too. DONE has the
run's own share, `mix_share`.

python -m instructrl.main --config=experiments/ppo_init.py:tiny \
    --workdir=DIR/ppo_init
"""

from experiments import sft

# Peak learning rates (C.3). The paper has no 125M.
PEAK_LR = {'125m': 5e-6, '1.3b': 5e-6, '6b': 1.04e-5, '175b': 2.45e-6}


def get_config(arg='tiny'):
  c = sft.get_config(arg)
  c.stage = 'ppo_init'
  # C.3. `tiny` has a tenth of the paper's demonstrations and trains for as many
  # epochs as SFT: people prefer its answers up to the last epoch, although, as
  # in SFT, the loss on the demonstrations of validation rises (C.1).
  c.num_epochs = 16 if arg == 'tiny' else 2
  c.optimizer.peak_lr = PEAK_LR.get(arg, c.optimizer.peak_lr)
  c.checkpoint.keep = 2  # number of newest checkpoints to keep
  c.pretrain_mix = 0.1  # fraction of the rows of a batch (C.3)
  c.model.dropout = 0.0  # not printed for this stage
  return c
