"""Direct preference optimization on the rankings (Rafailov et al. 2023).

python -m instructrl.main --config=experiments/dpo.py:tiny --workdir=DIR/dpo

The policy starts from SFT and learns from the rankings that train the reward
model. There is no reward model and no sampling.
"""

from experiments import common
from experiments import reward

# prompts per update, updates (0 = one epoch), peak learning rate, updates of
# the warmup. At the paper's sizes: 64, 1e-6 and 150 (Rafailov et al. 2023,
# appendix B, which counts pairs where a batch here has rankings).
RECIPE = {
  'micro': (8, 0, 1e-3, 2),
  'tiny': (8, 300, 1.5e-4, 20),
  'small': (32, 0, 5e-5, 20),
  **dict.fromkeys(common.PAPER_SIZES, (64, 0, 1e-6, 150)),
}


def get_config(arg='tiny'):
  c = reward.get_config(arg)
  c.stage = 'dpo'
  del c.inputs['init']
  c.inputs.policy = '../sft'  # where the policy starts; also the reference
  c.beta = 0.1  # strength of the KL constraint (appendix B)
  c.batch_size, c.num_steps, peak_lr, warmup = RECIPE[arg]
  c.num_epochs = 1  # where num_steps is 0
  c.eval_every = 100 if arg == 'tiny' else 0  # updates; 0 = once an epoch
  # Tokens whose logits are in memory at once, on all devices together.
  c.logits_chunk = 65_536 if arg in common.PAPER_SIZES else 4096
  c.evals = common.evals()
  # Appendix B: RMSprop, whose place Adam takes here; no decay of the rate.
  c.optimizer = common.optimizer(peak_lr)
  c.optimizer.schedule = 'constant'
  c.optimizer.warmup_steps = warmup
  return c
