"""Fine-tunes the pretrained model on demonstrations (appendix C.1).

python -m instructrl.main --config=experiments/sft.py:tiny --workdir=DIR/sft
"""

from experiments import common
from experiments import pretrain

# Batch, epochs, peak learning rate. The paper (C.1): 32 (8 for 175B), 16
# epochs; 125M has the values of 1.3B. Small models need higher rates.
RECIPE = {
  'micro': (8, 2, 1e-3),
  'tiny': (4, 16, 2e-3),
  'small': (32, 8, 3e-4),
  '125m': (32, 16, 9.65e-6),
  '1.3b': (32, 16, 9.65e-6),
  '6b': (32, 16, 9.65e-6),
  '175b': (8, 16, 5.03e-6),
}


def get_config(arg='tiny'):
  c = pretrain.get_config(arg)
  c.stage = 'sft'
  c.inputs.init = '../pretrain'
  c.rows = 'demonstrations.rows'
  c.validation_rows = 'demonstrations_validation.rows'
  c.pretrain_rows = 'corpus.rows'
  c.pretrain_mix = 0.0
  c.batch_size, c.num_epochs, peak_lr = RECIPE[arg]
  # The paper prints no unit of its batch. Demonstrations, each padded to a row,
  # are 5.1 PF-days at 175B; packed they are 1.1. The paper prints 4.9 (section
  # 5.1). Laptops pack: a row of the lab's has about eight demonstrations.
  c.batch_unit = 'examples' if arg in common.PAPER_SIZES else 'rows'
  c.num_steps = c.microbatch_size = 0  # num_epochs counts; one microbatch
  # Keep every epoch: the first one writes candidates, and the reward model
  # selects.
  c.checkpoint.every = 0  # once an epoch
  c.checkpoint.keep = 100
  # C.1. Laptop models underfit: with 0.2 they do not learn a third of the
  # tasks.
  c.model.dropout = 0.0 if arg in ('micro', 'tiny') else 0.2
  c.optimizer = common.optimizer(peak_lr)  # cosine to 10%, no warmup (C.1)
  c.eval_every = 0  # once an epoch
  return c
