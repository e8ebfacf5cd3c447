r"""Fine-tunes the pretrained model on public tasks with instructions (C.5).

python -m instructrl.main --config=experiments/nlp.py:tiny --workdir=DIR/nlp

The counterpart of the paper's GPT-3 on FLAN and T0: a mixture of public tasks,
no example twice, a cosine to 10%. The checkpoint is chosen by reward-model
score (`select_nlp`).
"""

from experiments import common
from experiments import sft

# Rows of a batch, steps between checkpoints, peak learning rate. The paper has
# 64 examples and 4e-6 or 6e-6 (C.5); small models need higher rates.
RECIPE = {
  'micro': (8, 2, 1e-3),
  'tiny': (16, 25, 2e-3),
  'small': (32, 100, 3e-4),
}


def get_config(arg='tiny'):
  common.check_size(arg, common.LAB_SIZES)
  c = sft.get_config(arg)
  c.rows, c.validation_rows = (
    'public_tasks.rows',
    'public_tasks_validation.rows',
  )
  c.pretrain_rows = ''
  c.num_epochs = 1
  c.batch_size, c.checkpoint.every, c.optimizer.peak_lr = RECIPE[arg]
  c.model.dropout = 0.0  # not printed
  return c
