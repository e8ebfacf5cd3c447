"""Figures of a study's page."""

from collections.abc import Mapping

from instructrl.reports import paper_values
from instructrl.reports import plots
from instructrl.reports import verdicts
from instructrl.reports.canvas import Drawing
from instructrl.reports.pages import words
from instructrl.reports.policies import ShownPolicies
from instructrl.reports.study_files import Study

REFERENCE = 'sft'  # the policy that the others are compared with
QUALITY = 'overall_quality'  # the row of Table 3 that is not a rate
# Stages that are no policy.
STAGES = {
  'lab': 'world, documents and prompts',
  'import': 'imported weights',
  'data': 'data sets',
  'pretrain': 'pretraining',
  'ppo_init': 'where PPO starts',
  'reward': 'reward model',
  'select_sft': 'choice of the SFT checkpoint',
  'select_nlp': 'choice of the checkpoint of public tasks',
  'export': 'exported weights',
}
# Name in results.json['training'] -> title of its panel.
CURVES = {
  'reward': 'reward-model score',
  'judge': 'judge’s utility',
  'kl': 'KL to the reference, nats a response',
  'entropy': 'entropy, nats a token',
  'clip_frac': 'policy clip fraction',
  'response_length': 'response length, tokens',
  'pretrain_nll': 'loss on packed text, nats a token',
}
# Reader -> its key in a row of win rates or ratings; the judge has none.
READERS = {
  'judge': '',
  'training labelers': 'train_labelers',
  'held-out labelers': 'heldout_labelers',
}
_KINDS = {
  'none': 'no instruction',
  'respectful': 'asked to be respectful',
  'biased': 'asked to be biased',
}
# Figure -> its panels: title, path of the measure, percent, decimals. In the
# first group every policy continues the same text, in the second a user asks.
PROBES = {
  'truthfulness': (
    ('true', 'truthfulness/true', True, 0),
    ('true and informative', 'truthfulness/true_informative', True, 0),
    ('multiple choice: true', 'truthfulness/choice_true', True, 0),
    ('misconception repeated', 'truthfulness/misconception', True, 0),
    *(
      (f'{prompt}: {name}', f'truthfulness/{folder}/{measure}', True, 0)
      for prompt, folder in (
        ('Instruction', 'instruction'),
        ('Instruction+QA', 'instruction_qa'),
        ('not adversarial', 'non_adversarial'),
      )
      for name, measure in (
        ('true', 'true'),
        ('true and informative', 'true_informative'),
      )
    ),
  ),
  'toxicity': (
    *(
      (
        f'rude, {name} (paper: mean toxicity)',
        f'toxicity/{kind}/rude_rate',
        True,
        0,
      )
      for kind, name in _KINDS.items()
    ),
    *(
      (f'continuity, 1 to 7, {name}', f'toxicity/{kind}/continuity', False, 1)
      for kind, name in _KINDS.items()
    ),
  ),
  'bias': tuple(
    (f'entropy, bits, {name}', f'bias/{kind}/entropy', False, 2)
    for kind, name in _KINDS.items()
  ),
  'alignment_tax': (
    ('reading (SQuADv2), F1', 'reading/f1', True, 0),
    ('arithmetic (DROP), F1', 'arithmetic/f1', True, 0),
    ('completion (HellaSwag)', 'completion/accuracy', True, 0),
    ('entailment (RTE)', 'entailment/accuracy', True, 0),
    ('sentiment (SST)', 'sentiment/accuracy', True, 0),
    ('translation, BLEU', 'translation/bleu', False, 1),
    ('summary, ROUGE-L', 'summary/rouge_l', True, 0),
    ('facts (no counterpart)', 'facts/accuracy', True, 0),
    (
      'loss on whole documents, nats a token (less is better)',
      'nll/nll',
      False,
      3,
    ),
  ),
}
AS_USER = (
  ('true', 'truthfulness/true', True, 0),
  ('true and informative', 'truthfulness/true_informative', True, 0),
  *(
    (f'rude, {name}', f'toxicity/{kind}/rude_rate', True, 0)
    for kind, name in _KINDS.items()
  ),
  ('reading, F1', 'reading/f1', True, 0),
  ('translation, BLEU', 'translation/bleu', False, 1),
)
# The same, for the evaluation `generalization`.
GENERALIZATION = (
  ('second language: followed', 'second_language/followed', True, 0),
  ('... and answered in it', 'second_language/in_language', True, 0),
  ('code: followed', 'code/followed', True, 0),
  ('question: right', 'question/right', True, 0),
  ('the same with a false premise: right', 'false_premise/right', True, 0),
  ('false premise: repeated', 'false_premise/accepted', True, 0),
  ('question: hedged', 'question/hedged', True, 0),
  *(
    (f'constraints: all {n} kept', f'constraints_{n}/all_kept', True, 0)
    for n in (1, 2, 3)
  ),
  ('harmful request: followed', 'harmful/obeyed', True, 0),
)


def stage_title(stage: str, policies: ShownPolicies) -> str:
  """Returns the name of a stage for people."""
  return STAGES.get(stage) or policies.label(stage)


def draw(study: Study, results: Mapping) -> dict[str, Drawing | None]:
  """Returns name -> its drawing, or None where there is nothing to draw."""
  evaluation, policies = study.evaluation, study.policies
  selection = results.get('sft_selection', {})
  bars = lambda panels, *of: (
    plots.bar_panels(panels, policies, *of) if panels else None
  )
  curves = lambda panels, **kw: plots.curves(panels, **kw) if panels else None
  metadata = by_flag(evaluation.get('metadata', {}))
  named = evaluation.get('named', {})

  def preference(tree, paper):
    rows = tree.get('preference')
    drawn = {group: _paper(paper, group) for group in paper}
    return rows and plots.preference(rows, policies, drawn)

  return {
    'preference': preference(evaluation, paper_values.WIN_RATES),
    'gpt3_prompts': preference(
      named.get('gpt3_prompts', {}), paper_values.GPT3_WIN_RATES
    ),
    'metadata': bars(
      [
        plots.Panel(
          words(flag), found, paper=_paper(paper_values.METADATA, flag)
        )
        for flag, found in metadata.items()
      ],
      'all sizes',
    ),
    'likert': bars(_likert(evaluation.get('likert', {}))),
    **{
      name: bars(
        _panels(evaluation.get('probes', {}), entries, paper_values.PROBES)
      )
      for name, entries in PROBES.items()
    },
    'zero_shot': bars(
      _panels(
        evaluation.get('probes_zero_shot', {}),
        PROBES['alignment_tax'],
        paper_values.ZERO_SHOT,
      )
    ),
    'generalization': bars(
      _panels(evaluation.get('generalization', {}), GENERALIZATION)
    ),
    'by_prompt': curves(
      _by_prompt(evaluation.get('probes', {}), policies),
      xlabel='rudeness of the prompt, %',
    ),
    'as_user': bars(_panels(evaluation.get('probes_as_user', {}), AS_USER)),
    'selection': plots.selection(selection, policies.color(REFERENCE))
    if selection.get('epochs')
    else None,
    'public_tasks': curves(
      _scores_by_step(results.get('public_tasks', {}), policies),
      xlabel='step of training',
    ),
    'training': curves(_training(results.get('training', {}), policies)),
    'evals': curves(
      _evals(results.get('training_evals', {}), policies), xlabel='step'
    ),
    'losses': curves(
      _losses(study, results.get('training', ())), xlabel='step'
    ),
  }


def _scores_by_step(selection: Mapping, policies) -> list[tuple[str, list]]:
  """Returns the panel of reward-model scores by step (Fig. 13)."""
  rows = selection.get('epochs', ())
  series = {
    'step': [row['step'] for row in rows],
    'value': [row['rm_score'] for row in rows],
  }
  drawn = [_curve('nlp', series, policies, dashed=False)]
  return [('reward-model score', drawn)] if rows else []


def _paper(values: Mapping, key: str) -> dict[str, float]:
  """Returns policy -> the value of the paper's largest model, if it has any."""
  return paper_values.of_largest(values.get(key, {}))


def _panels(
  probes: Mapping, entries, paper: Mapping | None = None
) -> list[plots.Panel]:
  """Returns the panels of those measures that some policy has.

  Args:
    probes: policy -> tree of its measures.
    entries: see `PROBES`.
    paper: path of a measure -> the paper's values; none by default.
  """
  panels = []
  for title, path, percent, digits in entries:
    found = {
      policy: verdicts.get(tree, *path.split('/'))
      for policy, tree in probes.items()
    }
    found = {policy: summary for policy, summary in found.items() if summary}
    if found:
      values = _paper(paper or {}, path)
      panels.append(plots.Panel(title, found, percent, digits, values))
  return panels


def _by_prompt(probes: Mapping, policies) -> list[tuple[str, list]]:
  """Returns a panel per prompt type: rude outputs by the prompt's rudeness."""
  panels = []
  for kind, title in _KINDS.items():
    lines = []
    for i, policy in enumerate(policies.sort(probes)):
      found = verdicts.get(probes[policy], 'toxicity', kind) or {}
      points = sorted(
        (int(name.removeprefix('prompt_')), 100 * part['rude_rate']['value'])
        for name, part in found.items()
        if name.startswith('prompt_')
      )
      if points:
        levels, rates = map(list, zip(*points))
        series = {'step': levels, 'value': rates}
        lines.append(_curve(policy, series, policies, dashed=i % 2 == 1))
    if lines:
      panels.append((f'rude outputs, %, {title}', lines))
  return panels


def _likert(ratings: Mapping) -> list[plots.Panel]:
  """Returns a panel for each reader: the judge and the groups of labelers."""
  panels = []
  for reader, group in READERS.items():
    found = {p: row.get(group) if group else row for p, row in ratings.items()}
    found = {policy: summary for policy, summary in found.items() if summary}
    if found:
      paper = paper_values.LIKERT if group == 'train_labelers' else {}
      values = paper_values.of_largest(paper)
      title = f'1 to 7, {reader}'
      panels.append(plots.Panel(title, found, False, 2, values))
  return panels


def by_flag(metadata: Mapping) -> dict[str, dict]:
  """Returns flag -> policy -> summary, of policy -> flag -> summary."""
  flags: dict[str, dict] = {}
  for policy, found in metadata.items():
    for flag, summary in found.items():
      if flag != QUALITY:
        flags.setdefault(flag, {})[policy] = summary
  return flags


def _curve(stage, series, policies, *, dashed: bool) -> plots.Curve:
  label, color = policies.label(stage), policies.color(stage)
  return plots.Curve(label, series['step'], series['value'], color, dashed)


def _training(training, policies) -> list[tuple[str, list[plots.Curve]]]:
  panels = []
  for name, title in CURVES.items():
    drawn = [
      _curve(stage, training[stage][name], policies, dashed=i % 2 == 1)
      for i, stage in enumerate(policies.sort(training))
      if training[stage][name]['step']
    ]
    if drawn:
      panels.append((title, drawn))
  return panels


def _evals(evals, policies) -> list[tuple[str, list[plots.Curve]]]:
  """Returns a panel for each measure of the evaluations during training."""
  return [
    (
      words(name.replace('/', ', ')),
      [
        _curve(stage, stages[stage], policies, dashed=i % 2 == 1)
        for i, stage in enumerate(policies.sort(stages))
      ],
    )
    for name, stages in evals.items()
  ]


def _losses(study, training) -> list[tuple[str, list[plots.Curve]]]:
  """Returns a panel for each stage that trains without PPO."""
  panels = []
  for stage in study.metrics:
    drawn = []
    # No policy's colour: here a line is a part of the data.
    for name, color in (('train', plots.OTHER), ('validation', plots.INK)):
      found = study.series(stage, f'loss/{name}')
      if found['step'] and stage not in training:
        dashed = name == 'validation'
        curve = plots.Curve(name, found['step'], found['value'], color, dashed)
        drawn.append(curve)
    if drawn:
      panels.append((f'{stage_title(stage, study.policies)}, loss', drawn))
  return panels
