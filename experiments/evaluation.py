r"""Evaluates all policies on held-out prompts and probes (4.1 and 4.2).

python -m instructrl.main --config=experiments/evaluation.py:tiny \
    --workdir=DIR/evaluation
"""

from ml_collections import config_dict

from experiments import common

# Prompts, probes per task (before MULTIPLES of instructrl/lab/probes.py),
# validation documents, demonstrations in a prompt.
RECIPE = {
  'micro': (24, 4, 40, 1),
  'tiny': (1500, 100, 400, 2),
  'small': (1500, 200, 2000, 3),
}
GPT3_PROMPTS = {'micro': 12, 'tiny': 400, 'small': 1000}

# Prompts of each of the eight sets of `generalization`.
GENERALIZATION = {'micro': 4, 'tiny': 100, 'small': 300}


class Policies(common.Open):
  """Policies by name: --config.policies.NAME=PATH adds the policy NAME."""

  fresh = str


def get_config(arg='tiny'):
  c = common.base(arg, 'evaluation', common.LAB_SIZES)
  c.inputs.rankings = '../rankings'  # the noise of its labelers
  c.inputs.reward_model = '../reward'  # chooses the prefix; evals.reward
  # Name -> run folder, or a step of it, DIR/checkpoints/STEP; see POLICIES in
  # instructrl/stages/policies.py for the names. An empty path skips a policy.
  # Flags add policies: --config.policies.mine=../my_run.
  c.policies = Policies(
    dict(
      base='../pretrain',
      prompted='../pretrain',  # with a few-shot prefix
      sft='../select_sft',  # the step of `sft` that it selected
      nlp='../select_nlp',  # the step of `nlp` that it selected
      ppo_init='../ppo_init',  # what PPO pays and gains starts from here
      ppo='../ppo',
      ppo_ptx='../ppo_ptx',
    )
  )
  prompts, probes, documents, c.num_shots = RECIPE[arg]
  # Few-shot prefixes of the policy `prompted`. The one with the best score on
  # validation prompts is used; the paper has four (footnote 6).
  c.num_prefixes = 2 if arg == 'micro' else 4
  c.num_prefix_prompts = 8 if arg == 'micro' else 128
  # Name -> an evaluation; see instructrl/evaluators/evaluator.py.
  c.evals = config_dict.ConfigDict()
  c.evals.preference = dict(
    type='preference',
    num_prompts=prompts,
    temperature=1.0,  # of the compared responses, for all policies
    reference='sft',  # the policy that all are compared with
  )
  # Fig. 3 has a second set, of prompts that were sent to GPT-3 models.
  c.evals.gpt3_prompts = dict(
    type='preference',
    split='gpt3_test',
    num_prompts=GPT3_PROMPTS[arg],
    temperature=1.0,
    reference='sft',
  )
  # Requests unlike the training data, and simple mistakes (4.3, 5.3).
  c.evals.generalization = dict(
    type='generalization', num_prompts=GENERALIZATION[arg], temperature=1.0
  )
  c.evals.probes = dict(
    type='probes', num_probes=probes, num_documents=documents
  )
  # Score of the reward model and KL from `kl_from`.
  c.evals.reward = dict(
    type='',  # 'reward_model'; '' leaves it out, here and above
    num_prompts=prompts,
    temperature=1.0,
    kl_from='ppo_init',
  )
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.batch_size = 128  # responses sampled at once
  return c
