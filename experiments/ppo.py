"""PPO against the reward model with a KL reward (section 3.5, appendix C.4).

python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR/ppo
"""

from ml_collections import config_dict

from experiments import common
from instructrl.rewards import rewards_settings
from instructrl.stages import ppo_settings

# batch, minibatch, iterations. The paper (C.4): 256k episodes, 512 an iteration,
# in 8 minibatches of 64.
RECIPE = {
  'micro': (16, 8, 6),
  'tiny': (64, 16, 60),
  'small': (256, 64, 500),
  **dict.fromkeys(common.PAPER_SIZES, (512, 64, 500)),
}
# One 6B reward model for all policies (C.2); the paper has no 125M.
REWARD_MODEL = {'1.3b': '6b', '175b': '6b'}
# Peak rates of the policy and the value model. The paper prints the value
# model's (C.4). The policy's was picked from a log-linear scan of 2.55e-6 to
# 2.55e-5 (1.3B, 6B), whose middle this is, or of 2.55e-6 and 3.74e-6 (175B).
PEAK_LR = {
  '125m': (8.06e-6, 9e-6),
  '1.3b': (8.06e-6, 9e-6),
  '6b': (8.06e-6, 9e-6),
  '175b': (2.55e-6, 5e-6),
}


class Rewards(config_dict.ConfigDict):
  """Reward terms by name, to which flags may add.

  ml_collections refuses a flag of a field that does not exist. Here the first
  flag of a new term, --config.rewards.NAME.weight=0.1, makes the term NAME.
  """

  def __getattr__(self, name):
    if not name.startswith('_') and name not in self:
      with self.unlocked():
        self[name] = config_dict.ConfigDict(rewards_settings.defaults())
    return super().__getattr__(name)


def get_config(arg='tiny'):
  c = common.base(arg, 'ppo')
  laptop, paper = arg in ('micro', 'tiny'), arg in common.PAPER_SIZES
  c.model = common.model(arg)  # the policy
  # Frozen, and otherwise as what they start from; of the other fields of a
  # model, those that do not change what it computes may differ.
  c.reference_model = common.same_model(c.model)
  c.reward_model = common.model(REWARD_MODEL.get(arg, arg))
  c.value_model = common.same_model(c.reward_model)
  if paper:  # frozen weights are 16-bit (C)
    c.value_model.param_dtype = 'float32'
    c.reference_model.param_dtype = c.reward_model.param_dtype = 'bfloat16'
  # Rules of a model that differ from those of `rules`. `generate` is the policy
  # while it samples: whole along fsdp, or every token would gather the weights.
  c.model_rules = config_dict.ConfigDict(
    dict(
      reference_model=(),
      reward_model=(),
      value_model=(),
      generate=(('embed', None),),
    )
  )
  # What waits in the memory of the hosts, and is copied to the devices where it
  # is needed: the KL's reference in scoring, the average after each minibatch.
  # The numbers are the same; it takes less memory of the devices, and time.
  c.offload = config_dict.ConfigDict(dict(reference=False, ema=False))
  c.inputs.policy = '../ppo_init'
  c.inputs.reference = ''  # of the KL; empty is inputs.policy (C.3)
  c.inputs.prompts = ''  # a data folder with prompts; empty is inputs.data
  # The score is the weighted sum of these terms, see
  # instructrl/rewards/rewards_settings.py; a weight of 0 leaves a term out. The
  # value model starts from the reward model (section 3.5), else from the policy.
  # Add a term by flags, such as --config.rewards.NAME.path=../other_reward.
  c.rewards = Rewards()
  c.rewards.reward_model.path = '../reward'
  c.prompts_split = 'ppo'  # of the lab's prompts; no labeler saw them
  # Defaults, bounds, units and sources: instructrl/stages/ppo_settings.py.
  p = c.ppo = config_dict.ConfigDict(ppo_settings.defaults())
  p.batch_size, p.minibatch_size, p.num_iterations = RECIPE[arg]
  p.prompt_len, p.response_len = common.LENGTHS[arg]
  if paper:  # what fits the memory of a device
    p.score_microbatch_size = p.ptx_microbatch_size = 64
  else:
    p.ptx_examples_per_episode = 1
    p.logits_chunk = 4096
  if laptop:
    # The paper's 0.02 is for a reward model of 6B parameters; those of a laptop
    # are over-optimised beyond half a nat.
    p.kl_coef = 0.3
    # The paper's 0.992 is for 4,000 steps; a short run needs a shorter memory.
    p.ema_decay = {'micro': 0.5, 'tiny': 0.97}[arg]
  policy_lr, value_lr = PEAK_LR.get(arg, (2e-4, 3e-4))  # the lab's are tuned
  c.optimizer = common.optimizer(policy_lr)
  c.value_optimizer = common.optimizer(value_lr)
  for o in (c.optimizer, c.value_optimizer):
    o.schedule = 'constant'
    o.warmup_from = 0.1
  c.eval_every = 10  # iterations between NLL evaluations
  c.eval_batches = 8  # of eval_batch_size rows
  c.eval_batch_size = 64 if paper else 16
  c.samples_every = 10  # iterations between samples in samples.jsonl
  # Wait for each pass and write its seconds to timings.jsonl; costs speed.
  c.log.timings = False
  c.evals = common.evals()
  c.checkpoint.every = 20
  return c
