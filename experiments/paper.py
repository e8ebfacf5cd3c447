r"""The paper, reproduced.

Three worlds with three seeds each, three sizes and all ablations, in a folder:

python -m instructrl.sweep --config=experiments/paper.py:tiny --workdir=DIR

Stages that several parts share (pretraining, SFT, the reward model, the
recipe's PPO-ptx) run once. The same command resumes. A part's results are in
DIR/NAME as soon as its runs are done, and DIR/paper has a page about all
claims. `--print` runs nothing, and says how many
runs are left and about how long they take.
`--config.order="('worlds','kl_coef')"` runs some parts only.
"""

from ml_collections import config_dict

from experiments import common
from experiments import sizes
from experiments import study
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


ABOUT = (
  'Here: policies in a simulated world; those of the size “tiny” have 0.9M '
  'parameters, in the part “sizes” 0.26M to 3.4M. The labelers are programs '
  'that read an answer with noise; the judge reads it without noise and knows '
  'the world. Ratings (Likert) are the judge’s where no labelers are named. In '
  'the paper: people, and models of 1.3B, 6B and 175B parameters. Directions '
  'compare, levels do not.',
)


# A task whose questions are half too easy and half too hard.
NO_ROOM = (
  'half of the questions, {}, are always answered, and the others, {}, are '
  'guessed: a tax can hardly be seen, and differences are between guesses (the '
  'table of tasks in docs/results.md)'
)
GUESSES = (
  'Differences on {} are between guesses, also where they are shown, because '
  'no question of these tasks is of medium difficulty.'
)
ARITHMETIC = NO_ROOM.format('counting', 'comparing and looking up')
COMPLETION = NO_ROOM.format('statements', 'ends of stories')


def level(policy, path, unit='.1%'):
  """Returns the field of a reason that has a policy's value on probes."""
  place = ''.join(f'[{key}]' for key in path.split('/'))
  return f'{{probes[{policy}]{place}[value]:{unit}}}'


def rude(policy, instruction='respectful'):
  """Returns the field of a reason that has a policy's rate of rude outputs."""
  return level(policy, f'toxicity/{instruction}/rude_rate')


# The findings of Ouyang et al. 2022 that are measured. The statements of a
# claim are made in instructrl/reports/ for studies, and by the parts.
CLAIMS = (
  dict(
    title='At every size prompted beats GPT, SFT beats prompted, PPO beats SFT',
    paper='Fig. 1, win rates against the 175B SFT on InstructGPT prompts: '
    'GPT 14, 19, 24% (1.3B, 6B, 175B); prompted 23, 27, 41%; SFT 35, 41, 50%; '
    'PPO 52, 58, 63%; PPO-ptx, which is like PPO, 53, 55, 66%.',
    studies=r'^Preference: (A second|The pretrained|A few-shot|The prompted|'
    r'PPO is|PPO-ptx (is better|and PPO))',
    parts={'sizes': r'^[\w-]+ wins (more|as)'},
    panels={'sizes': '^win rate against'},
    figures=('preference',),
  ),
  dict(
    title='The smallest PPO-ptx beats the largest GPT',
    paper='1.3B PPO-ptx is preferred to the 175B SFT more often than 175B GPT '
    'is, also than prompted GPT, with 100 times fewer parameters (Fig. 1).',
    studies='^Preference: A small',
    parts={'sizes': '^The smallest PPO-ptx'},
    panels={'sizes': '^win rate against'},
  ),
  dict(
    title='PPO-ptx against the other models, head to head',
    paper='175B PPO-ptx is preferred to GPT-3 in 85 ± 3%, to prompted GPT-3 in '
    '71 ± 4%, to FLAN in 78 ± 4% and to T0 in 79 ± 4% of comparisons (4.1).',
    studies='^Preference: PPO-ptx beats',
    figures=('head_to_head',),
  ),
  dict(
    title='Held-out labelers, other prompts and ratings agree',
    paper='Held-out labelers, who labeled nothing that was trained on, have '
    'about the same preferences, also on prompts to GPT-3 models (Fig. 3); '
    'Likert ratings have the same order (Fig. 31).',
    studies='^(Preference|Likert)',
    parts={'sizes': '(rated higher|^By held-out|^On GPT-3)'},
    panels={'sizes': '^(win rate(,| on)|Likert)'},
    figures=('likert', 'gpt3_prompts'),
  ),
  dict(
    title='What labelers note: instructions, constraints, inventions',
    paper='Fig. 4, all sizes together, GPT, SFT, PPO, PPO-ptx: attempts the '
    'instruction 69, 87, 92, 93%; keeps constraints 22, 34, 44, 43%; invents '
    '45, 9, 22, 16%; is appropriate 82, 88, 91, 91%.',
    studies='^Labeler metadata',
    parts={'sizes': '(invents|constraints|instruction)'},
    panels={'sizes': '^(invents|keeps|does not follow|inappropriate)'},
    figures=('metadata',),
    why={
      'invents less in closed-domain': 'the pretrained model fails to follow '
      'the instruction in {metadata[base][fails_to_follow_instruction][value]'
      ':.1%} of its outputs, which hardly try to answer; the prompted model '
      'tries more often and invents in '
      '{metadata[prompted][hallucination][value]:.1%}'
    },
  ),
  dict(
    title='Models fine-tuned on public tasks are like a prompted GPT',
    paper='Likert, 175B: GPT 2.6, FLAN 3.4, T0 3.3, prompted 3.5, SFT 4.1, '
    'PPO-ptx 4.8 (Fig. 5). Their reward-model score saturates (Fig. 13).',
    studies='^Public tasks',
    figures=('public_tasks',),
    why={
      'as good as a few-shot prompt': 'public tasks have short answers: their '
      'model is rated {likert[nlp][by_use_case][open_qa][value]:.1f} on open '
      'questions, where the prompted one has '
      '{likert[prompted][by_use_case][open_qa][value]:.1f}, but '
      '{likert[nlp][by_use_case][generation][value]:.1f} against '
      '{likert[prompted][by_use_case][generation][value]:.1f} on generation, '
      '{likert[nlp][by_use_case][generation][n]} of {likert[nlp][n]} prompts'
    },
  ),
  dict(
    title='The reward model',
    paper='72.4 ± 0.4% on training labelers, 69.6 ± 0.9% on a group left out '
    '(4.1). All pairs of a prompt in one element are better than shuffled '
    'pairs (3.5); more than one epoch raises the validation loss; half or 1.5 '
    'times the rate, or another start, changes little (C.2).',
    studies='^Reward model',
    note='How often labelers agree is no result: the lab sets it to the '
    'paper’s 72.6% (training labelers) and 77.3% (held-out labelers). Rankings '
    'of the held-out labelers therefore have less noise, and the first two '
    'rows do not compare the two groups; the row about labelers left out does '
    'compare like with like.',
    parts={
      name: '.'
      for name in (
        'reward_folds',
        'reward_pairs',
        'reward_epochs',
        'reward_peak_lr',
        'reward_init',
      )
    },
  ),
  dict(
    title='SFT gets better after its validation loss is best',
    paper='The validation loss is best after one epoch; the reward-model score '
    'and ratings rise for 16 (3.5, C.1).',
    studies='^SFT',
    parts={'sft_epochs': '.'},
    figures=('selection',),
  ),
  dict(
    title='Truthfulness',
    paper='Fig. 6, people, 175B, true and informative: GPT 20, SFT 25, PPO 31, '
    'PPO-ptx 30% after the QA prompt; with instruction and examples PPO is '
    'true in 92% against 42%, and true and informative in 25 against 22%.',
    studies='^Truthfulness',
    parts={'sizes': 'true and informative'},
    panels={'sizes': 'true and informative'},
    figures=('truthfulness',),
  ),
  dict(
    title='Toxicity',
    paper='Table 14, 175B, GPT against PPO-ptx: respectful .233, .196; no '
    'instruction .231, .234; biased .285, .400. People find SFT least toxic, '
    'least continuous and least preferred (Fig. 7, 40, 41).',
    studies='^Toxicity',
    parts={'sizes': 'ruder'},
    panels={'sizes': '^rude'},
    figures=('toxicity', 'by_prompt'),
    why={
      'respectful, PPO-ptx is less rude': 'it becomes ruder before RL: asked '
      f'to be respectful, the pretrained model is rude in {rude("base")}, '
      f'PPO’s start in {rude("ppo_init")}, PPO-ptx in {rude("ppo_ptx")}',
      'respectful, SFT is less rude': 'the demonstrations make it ruder, and '
      f'the instruction changes little: SFT is rude in {rude("sft")} with it '
      f'and in {rude("sft", "none")} without, the pretrained model in '
      f'{rude("base")} and {rude("base", "none")}',
    },
  ),
  dict(
    title='Bias',
    paper='Table 14, 175B, Winogender entropy in bits, GPT against PPO-ptx: no '
    'instruction .735, .737; respectful .796, .696; biased .783, .690.',
    studies='^Bias',
    parts={'sizes': 'entropy'},
    panels={'sizes': '^entropy'},
    figures=('bias',),
  ),
  dict(
    title='The alignment tax, and pretraining gradients against it',
    paper='Table 14, 175B, few-shot, GPT, PPO, PPO-ptx: SQuADv2 69.8, 52.0, '
    '69.9; DROP 35.3, 27.8, 33.3; HellaSwag .791, .759, .820; Fr-En 39.9, '
    '26.6, 36.8. The paper does not evaluate where PPO starts.',
    studies='^Alignment tax',
    parts={'sizes': ': PPO'},
    panels={'sizes': r'\((SQuADv2|DROP|HellaSwag|Fr-En|RTE|SST|Reddit)\)'},
    figures=('alignment_tax',),
    note='SFT loses far more than PPO, because it sees no document after '
    'pretraining. It is not on the way to PPO: PPO starts from “PPO start”, '
    'which trains on documents too. The table divides the differences into '
    'what is there before RL and what RL adds. '
    + GUESSES.format('DROP and HellaSwag'),
    why={'numbers': ARITHMETIC, 'completion': COMPLETION},
  ),
  dict(
    title='Ablations of PPO',
    paper='Fig. 33 to 37 and E.11: the pretraining coefficient repairs the tax '
    'and a KL penalty towards GPT does not; twice the episodes do not help; '
    'the best KL coefficients are in the middle; 10% of pretraining rows at '
    'the start, a large batch and more pretraining rows help a little.',
    parts={
      name: '.'
      for name in (
        'ptx_coef',
        'kl_coef_pretrained',
        'episodes',
        'kl_coef',
        'init_mix',
        'ptx_examples',
        'batch_size',
      )
    },
    note=GUESSES.format('DROP') + ' Runs had another run beside them while '
    'their seconds were counted.',
    why={
      r'\(DROP\)': ARITHMETIC,
      r'\(SQuADv2\) starts above': 'PPO’s start has lost F1 before RL: in the '
      f'mean of the studies it has {level("ppo_init", "reading/f1")}, the '
      f'pretrained model {level("base", "reading/f1")}',
      r'\(SQuADv2\) falls with': 'PPO-ptx regains what PPO’s start has lost: '
      'F1 rises with the pretraining rows that it has read, here and in the '
      f'mean of the studies, from {level("ppo_init", "reading/f1")} to '
      f'{level("ppo_ptx", "reading/f1")}',
      'fewest examples': 'the recipe here has one row an episode, so that '
      'fewer cannot be tried; the paper’s 4 are half of its recipe’s. With one '
      'row the loss falls, because PPO’s start has lost more than PPO-ptx: '
      'the studies’ means are '
      f'{level("base", "nll/nll", ".3f")} nats after pretraining, '
      f'{level("ppo_init", "nll/nll", ".3f")} where PPO starts and '
      f'{level("ppo_ptx", "nll/nll", ".3f")} after PPO-ptx',
      r'\(SQuADv2\).*from the recipe': 'F1 rises up to the largest '
      'coefficient of the grid (the figure). All points share world 0 and seed '
      '0, where PPO’s start has lost more than in the mean of the studies (the '
      'table of the alignment tax)',
    },
  ),
  dict(
    title='Large learning rates break PPO, less so PPO-ptx',
    paper='Without pretraining gradients all runs above a peak rate of 8.05e-6 '
    'diverge; with them the result depends less on the rate (Fig. 38, E.9).',
    parts={'peak_lr': '.'},
    why={
      'high rate ruins': 'no rate of the grid diverges; the highest one moves '
      'the policy farther from its start and costs more of the loss on the '
      'corpus (the figure)'
    },
  ),
  dict(
    title='Alignment is cheap beside pretraining',
    paper='175B, petaflop/s-days: pretraining 3,640, SFT 4.9 (0.13%), PPO-ptx '
    '60 (1.6%) (5.1).',
    studies='^Cost',
    cost=True,
    note='The shares follow from the sizes of the runs, which the configs set, '
    'and have no verdict. They are far larger than in the paper because the '
    'corpus has only a few million tokens. The reward model and the sampling '
    'of rankings are not counted.',
  ),
  dict(
    title='Beyond the training distribution, and simple mistakes',
    paper='PPO-ptx follows instructions in other languages and about code; it '
    'accepts false premises, hedges, and keeps several constraints worse (4.3, '
    'Fig. 8, 9). It follows harmful instructions in most cases (5.3).',
    studies='^(Generali[sz]ation|Simple mistakes|Harmful)',
    note='Three constraints are all kept less often than one even if they do '
    'not disturb one another; the row about each constraint tells whether they '
    'do. Requests about code are rarely followed: '
    '{generalization[prompted][code][followed][value]:.1%} by the prompted '
    'policy, {generalization[ppo_ptx][code][followed][value]:.1%} by PPO-ptx.',
    figures=('generalization',),
    why={
      'hedges more often': 'the pretrained model answers {generalization[base]'
      '[question][right][value]:.1%} of these questions, so that several '
      'values in its text are no hedge; the demonstrations hardly hedge: SFT '
      'does in {generalization[sft][question][hedged][value]:.1%} of its '
      'answers, PPO-ptx in '
      '{generalization[ppo_ptx][question][hedged][value]:.1%}'
    },
  ),
)


def get_config(arg='tiny'):
  common.check_size(arg, common.LAB_SIZES)
  c = config_dict.ConfigDict()
  c.order = tuple(PARTS)  # the parts to run
  c.parts = config_dict.ConfigDict(
    {name: module.get_config(arg) for name, module in PARTS.items()}
  )
  c.seconds = config_dict.ConfigDict(study.SECONDS if arg == 'tiny' else {})
  return c
