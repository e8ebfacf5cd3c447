"""Supervised fine-tuning on demonstrations (appendix C.1).

python -m instructrl.main --config=experiments/sft.py:tiny --workdir=DIR/sft
"""

from experiments import common
from experiments import pretrain

# rows per update, epochs, peak learning rate. The paper (C.1): 32 demonstrations
# (8 for 175B), 16 epochs; it has no 125M, which has the values of 1.3B. Packed
# rows hold several demonstrations each: three in the lab, which wants a higher
# rate for models this small.
RECIPE = {
  'micro': (8, 2, 1e-3),
  'tiny': (4, 4, 2e-3),
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
  c.num_steps = c.microbatch_size = 0
  # Every epoch is kept: the first gives candidates, the RM selects one.
  c.checkpoint.every = 0  # once an epoch
  c.checkpoint.keep = 100
  # Residual (C.1). The small models of a laptop underfit: with 0.2 a third of
  # the tasks stay unlearned.
  c.model.dropout = 0.0 if arg in ('micro', 'tiny') else 0.2
  c.optimizer = common.optimizer(peak_lr)  # cosine to 10%, no warmup (C.1)
  c.eval_every = 0
  return c
