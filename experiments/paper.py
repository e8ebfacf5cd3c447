r"""The whole paper: two worlds, three sizes and all ablations, in one folder.

python -m instructrl.sweep --config=experiments/paper.py:tiny --workdir=DIR

Stages that several parts share (pretraining, SFT, the reward model, the
recipe's PPO-ptx) run once. The same command resumes. A part's results are in
DIR/NAME as soon as its runs are done. `--print` runs nothing, and says how many
runs are left and about how long they take.
`--config.order="('worlds','kl_coef')"` runs some parts only.
"""

from ml_collections import config_dict

from experiments import common
from experiments import sizes
from experiments import worlds
from experiments.ablations import batch_size
from experiments.ablations import episodes
from experiments.ablations import init_mix
from experiments.ablations import kl_coef
from experiments.ablations import kl_coef_pretrained
from experiments.ablations import peak_lr
from experiments.ablations import ptx_coef
from experiments.ablations import ptx_examples
from experiments.ablations import reward_epochs
from experiments.ablations import reward_folds
from experiments.ablations import reward_init
from experiments.ablations import reward_pairs
from experiments.ablations import reward_peak_lr
from experiments.ablations import sft_epochs

# Name -> module, in the order in which their runs begin.
PARTS = {
  'worlds': worlds,
  'sizes': sizes,
  'reward_folds': reward_folds,
  'reward_pairs': reward_pairs,
  'reward_epochs': reward_epochs,
  'reward_peak_lr': reward_peak_lr,
  'reward_init': reward_init,
  'sft_epochs': sft_epochs,
  'ptx_coef': ptx_coef,
  'kl_coef_pretrained': kl_coef_pretrained,
  'episodes': episodes,
  'kl_coef': kl_coef,
  'init_mix': init_mix,
  'peak_lr': peak_lr,
  'ptx_examples': ptx_examples,
  'batch_size': batch_size,
}
# Seconds of each stage's recipe at :tiny, on two cores of an AMD EPYC server
# CPU, for the estimate.
SECONDS = dict(
  lab=25,
  pretrain=200,
  sft=70,
  ppo_init=70,
  rankings=90,
  reward=90,
  select_sft=20,
  ppo=75,
  ppo_ptx=120,
  evaluation=60,
)


def get_config(arg='tiny'):
  common.check_size(arg, common.LAB_SIZES)
  c = config_dict.ConfigDict()
  c.order = tuple(PARTS)  # the parts to run
  c.parts = config_dict.ConfigDict(
    {name: module.get_config(arg) for name, module in PARTS.items()}
  )
  c.seconds = config_dict.ConfigDict(SECONDS if arg == 'tiny' else {})
  return c
