r"""Aligns imported weights on public data, by the recipe of the paper.

  python -m instructrl.study --config=experiments/real.py:cpu --workdir=DIR \
      --config.source=SMOLLM2 --config.demonstrations="('self-instruct',)" \
      --config.rankings="('hh-rlhf/harmless-base?limit=300',)" \
      --config.documents="('text:wiki.txt',)"

SMOLLM2 is a Hugging Face folder or a GGUF file. `python -m instructrl.data
SPEC` summarizes a source. `:cpu` is for two cores and a model of 135M
parameters, `:full` for one accelerator and up to a billion. Flags override any
field of a stage: --config.stages.ppo.ppo.kl_coef=0.1.

SFT, the start of PPO with a pretraining mix, a reward model, the SFT epoch with
the best score, PPO and PPO-ptx on prompts that nobody ranked, an evaluation and
an export. docs/real_data.md lists the departures from the paper.
"""

from ml_collections import config_dict

from experiments import common
from experiments import data
from experiments import export
from experiments import import_
from experiments import ppo as ppo_config
from experiments import ppo_ptx as ppo_ptx_config
from experiments import real_evaluation
from experiments import reward as reward_config
from experiments import select_sft as select_sft_config
from experiments import sft as sft_config

SIZES = tuple(common.REAL_LENGTHS)
# Fields that all models share.
MODEL = {'cpu': {}, 'full': dict(dtype='bfloat16', remat='full')}
MODELS = ('model', 'reference_model', 'reward_model', 'value_model')


def imported_model(arg, source):
  """Returns a model like an input of a stage."""
  c = common.imported_model(source)
  c.update(MODEL[arg])
  return c


def sft(arg):
  """Returns the config of SFT."""
  c = sft_config.get_config('125m')
  c.inputs.init = '../import'
  c.model = imported_model(arg, 'init')
  c.batch_size, c.num_epochs, c.optimizer.peak_lr = {
    'cpu': (8, 2, 2e-5),
    'full': (32, 3, 1e-5),
  }[arg]
  c.batch_unit = 'rows'  # packed: padding costs too much here
  c.pretrain_rows = ''  # the evaluation measures the pretraining loss
  c.logits_chunk = {'cpu': 2048, 'full': 8192}[arg]
  c.prompt_len, c.response_len = common.REAL_LENGTHS[arg]
  c.checkpoint.keep = 1
  return c


def ppo_init(arg):
  """Returns the config of PPO's start: SFT with pretraining rows (C.3)."""
  c = sft(arg)
  c.stage = 'ppo_init'
  c.num_epochs = 2  # C.3
  c.pretrain_rows, c.pretrain_mix = 'corpus.rows', 0.1  # C.3
  c.model.dropout = 0.0  # not printed for this stage
  return c


def select_sft(arg):
  """Returns the config of the selection of the SFT epoch (C.1)."""
  c = select_sft_config.get_config('tiny')
  c.size = arg
  c.num_prompts = {'cpu': 64, 'full': 500}[arg]
  c.prompt_len, c.response_len = common.REAL_LENGTHS[arg]
  c.batch_size = {'cpu': 16, 'full': 128}[arg]
  return c


def reward(arg):
  """Returns the config of the reward model."""
  c = reward_config.get_config('125m')
  c.inputs.rankings = '../data'
  c.model = imported_model(arg, 'init')
  c.prompt_len, c.response_len = common.REAL_LENGTHS[arg]
  c.max_responses = {'cpu': 4, 'full': 9}[arg]
  c.batch_size, c.optimizer.peak_lr = {'cpu': (8, 1e-4), 'full': (32, 1e-5)}[
    arg
  ]
  c.microbatch_size = {'cpu': 0, 'full': 8}[arg]
  return c


def ppo(arg, config):
  """Returns PPO or PPO-ptx, derived from the paper's size 125m."""
  c = config.get_config('125m')
  c.inputs.policy = '../sft'
  for name, source in (
    ('model', 'policy'),
    ('reference_model', 'policy'),
    ('reward_model', 'rewards.reward_model'),
    ('value_model', 'rewards.reward_model'),
  ):
    c[name] = imported_model(arg, source)
  p = c.ppo
  p.prompt_len, p.response_len = common.REAL_LENGTHS[arg]
  p.batch_size, p.minibatch_size, p.num_iterations = {
    'cpu': (16, 8, 25),
    'full': (128, 32, 200),
  }[arg]
  p.microbatch_size, p.score_microbatch_size = {'cpu': (0, 0), 'full': (8, 32)}[
    arg
  ]
  # The reward model saw only responses that end, and its score of others is
  # arbitrary: about 3 too high in experiments/reviews.py, where with a penalty
  # of 1 PPO's answers ceased to end.
  p.missing_eos, p.missing_eos_amount = 'penalty', 5.0
  p.kl_coef = {'cpu': 0.05, 'full': 0.05}[arg]
  p.ptx_examples_per_episode = {'cpu': 1, 'full': 1}[arg]
  p.ptx_microbatch_size = {'cpu': 0, 'full': 8}[arg]
  # Short runs need a shorter average and warmup, and higher rates: 50 updates
  # must move the policy.
  p.ema_decay, p.warmup_iterations = {'cpu': (0.9, 3), 'full': (0.98, 10)}[arg]
  p.logits_chunk = {'cpu': 2048, 'full': 8192}[arg]
  c.optimizer.peak_lr, c.value_optimizer.peak_lr = {
    'cpu': (1e-4, 1e-4),
    'full': (5e-6, 1e-5),
  }[arg]
  c.eval_every = c.samples_every = {'cpu': 5, 'full': 20}[arg]
  c.validation_prompts = {'cpu': 64, 'full': 512}[arg]
  c.eval_batch_size, c.eval_batches = {'cpu': (8, 2), 'full': (32, 8)}[arg]
  c.checkpoint.every = {'cpu': 5, 'full': 20}[arg]
  return c


def without_start(arg):
  """Returns a study whose PPO starts from SFT; one pass over the data."""
  common.check_size(arg, SIZES)
  c = config_dict.ConfigDict()
  # Seeds of all stages; a study ignores the seed fields of its stages.
  c.world_seed = 0  # the split of the data
  c.train_seed = 0  # the head, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  c.source = ''  # path of the weights: a Hugging Face folder or a GGUF file
  # Sources: NAME[/SUBSET][:PATH][?limit=ROWS&option=value...].
  c.demonstrations = ('self-instruct',)
  c.rankings = ('hh-rlhf/harmless-base',)
  c.prompts = ()  # prompts for PPO only; () = the ranked prompts
  c.documents = ('c4?files=1&limit=2000',)  # the pretraining mix
  # Templates of prompts and responses; '' = the model's chat template.
  c.prompt_template = ''  # such as 'Human: {prompt}\n\nAssistant:'
  c.response_template = ''  # such as ' {response}'
  # Number of the lowest layers that no model trains; the embeddings are not
  # trained then either. 20 of 30 halves the arithmetic.
  c.frozen_layers = {'cpu': 20, 'full': 0}[arg]
  stages = c.stages = config_dict.ConfigDict()
  stages['import'] = import_.get_config()
  for name in ('source', 'prompt_template', 'response_template'):
    stages['import'][name] = c.get_ref(name)
  stages.data = data.get_config('125m')
  stages.data.inputs.tokenizer = '../import'
  for name in ('demonstrations', 'rankings', 'prompts', 'documents'):
    stages.data[name] = c.get_ref(name)
  prompt_len, response_len = common.REAL_LENGTHS[arg]
  stages.data.update(
    prompt_len=prompt_len,
    response_len=response_len,
    row_len=prompt_len + response_len,
    validation_fraction=0.2 if arg == 'cpu' else 0.05,
  )
  stages.data.max_responses = 4 if arg == 'cpu' else 9
  stages.sft = sft(arg)
  stages.reward = reward(arg)
  stages.ppo = ppo(arg, ppo_config)
  stages.ppo_ptx = ppo(arg, ppo_ptx_config)
  # The paper's 27.8 is for 8 rows an episode and policies of 1.3B or more.
  stages.ppo_ptx.ppo.ptx_coef = {'cpu': 0.2, 'full': 4.0}[arg]
  stages.evaluation = real_evaluation.get_config(arg)
  stages.export = export.get_config()
  for stage in stages.values():
    if 'data' in stage.inputs:
      stage.inputs.data = '../data'
    for model in MODELS:
      if model in stage:
        stage[model].frozen_layers = c.get_oneway_ref('frozen_layers')
  # The stages run in this order, each in a folder of its name.
  c.order = (
    'import',
    'data',
    'sft',
    'reward',
    'ppo',
    'ppo_ptx',
    'evaluation',
    'export',
  )
  return c


def get_config(arg='cpu'):
  c = without_start(arg)
  stages = c.stages
  # Rows with an e-mail address, a phone or a card number (section 3.2).
  stages.data.pii = 'drop'
  # Ranked training prompts that only PPO sees. The paper has about as many for
  # PPO as ranked ones (Table 6); with few rankings that costs too much.
  stages.data.ppo_fraction = {'cpu': 0.2, 'full': 0.4}[arg]
  stages.sft.checkpoint.keep = stages.sft.num_epochs  # to select from
  stages.ppo_init, stages.select_sft = ppo_init(arg), select_sft(arg)
  for name in ('ppo_init', 'select_sft'):
    stages[name].inputs.data = '../data'
  stages.ppo_init.model.frozen_layers = c.get_oneway_ref('frozen_layers')
  for name in ('ppo', 'ppo_ptx'):
    stages[name].inputs.policy = '../ppo_init'
  evaluation = stages.evaluation
  evaluation.policies.sft = '../select_sft'  # the step that it selected
  evaluation.policies.ppo_init = '../ppo_init'
  order = [name for name in c.order if name != 'sft']
  order[2:2] = ['sft', 'ppo_init']
  order.insert(order.index('ppo'), 'select_sft')
  c.order = tuple(order)
  return c
