"""The values of Ouyang et al. 2022 that are drawn beside our own.

A value is a tuple: of the 1.3B, 6B and 175B models, or of one number where the
paper has one, of 175B or of all sizes together. Values of figures are read off
by eye. The lab's tasks are stand-ins: directions compare, levels do not.
"""

from collections.abc import Mapping

Values = Mapping[str, tuple[float, ...]]  # policy -> its values

_POLICIES = ('base', 'prompted', 'sft', 'ppo', 'ppo_ptx')
_UNPROMPTED = tuple(name for name in _POLICIES if name != 'prompted')


def _of(*values: str, scale: float = 1.0) -> Values:
  """Returns policy -> values; four texts have none for the prompted model."""
  names = _POLICIES if len(values) == len(_POLICIES) else _UNPROMPTED
  return {
    name: tuple(scale * float(value) for value in text.split())
    for name, text in zip(names, values, strict=True)
  }


def of_largest(values: Values) -> dict[str, float]:
  """Returns policy -> the value of the largest model."""
  return {policy: found[-1] for policy, found in values.items()}


# Group of labelers -> win rates against the 175B SFT on InstructGPT prompts
# (Fig. 3).
WIN_RATES = {
  'train_labelers': _of(
    '.14 .19 .24', '.23 .27 .41', '.35 .41 .50', '.52 .58 .63', '.53 .55 .66'
  ),
  'heldout_labelers': _of(
    '.19 .22 .25', '.25 .31 .43', '.46 .50 .50', '.66 .69 .69', '.64 .68 .71'
  ),
}
# The same on prompts to GPT-3 models, where GPT-3 is not prompted (Fig. 3).
GPT3_WIN_RATES = {
  'train_labelers': _of(
    '.14 .17 .22', '.31 .39 .50', '.50 .61 .59', '.42 .51 .61'
  ),
  'heldout_labelers': _of(
    '.23 .20 .28', '.44 .41 .50', '.56 .61 .64', '.56 .55 .62'
  ),
}
LIKERT = _of(  # training labelers (Fig. 31)
  '2.3 2.2 2.5', '2.7 2.7 3.5', '3.4 3.6 4.0', '4.2 4.4 4.6', '4.3 4.2 4.8'
)
# Flag -> its share of the answers of all sizes (Fig. 4).
METADATA = {
  'fails_to_follow_instruction': _of('.31', '.21', '.13', '.08', '.07'),
  'satisfies_constraint': _of('.22', '.28', '.34', '.44', '.43'),
  'hallucination': _of('.45', '.28', '.09', '.22', '.16'),
  'inappropriate_for_customer_assistant': _of(
    '.18', '.14', '.12', '.09', '.09'
  ),
}
HALLUCINATION = _of(  # by size, at other levels than in Fig. 4 (Fig. 30)
  '.62 .47 .51', '.29 .25 .14', '.23 .17 .20', '.21 .10 .18'
)
# Path of a measure on public sets -> values.
PROBES: Mapping[str, Values] = {
  # People's judgements (Fig. 6).
  'truthfulness/true': _of(
    '.32 .30 .25', '.28 .51 .43', '.34 .44 .39', '.27 .43 .35'
  ),
  'truthfulness/true_informative': _of(
    '.21 .24 .20', '.20 .27 .25', '.25 .31 .31', '.21 .31 .30'
  ),
  'truthfulness/instruction_qa/true': _of(
    '.34 .56 .42', '.34 .66 .75', '.39 .78 .92', '.33 .65 .66'
  ),
  'truthfulness/instruction_qa/true_informative': _of(
    '.21 .25 .22', '.22 .28 .25', '.25 .29 .25', '.25 .31 .28'
  ),
  # Judge models (Table 14).
  'truthfulness/instruction/true': _of(
    '.340 .414 .570', '.360 .756 .665', '.634 .928 .879', '.355 .733 .815'
  ),
  'truthfulness/instruction/true_informative': _of(
    '.212 .212 .226', '.282 .213 .257', '.559 .187 .382', '.339 .350 .494'
  ),
  # RealToxicityPrompts (Table 14), and continuity by people (Fig. 40).
  'toxicity/none/rude_rate': _of(
    '.228 .229 .231', '.198 .211 .211', '.213 .214 .228', '.228 .227 .234'
  ),
  'toxicity/respectful/rude_rate': _of(
    '.211 .232 .233', '.196 .196 .199', '.198 .176 .205', '.179 .204 .196'
  ),
  'toxicity/biased/rude_rate': _of(
    '.250 .261 .285', '.236 .250 .256', '.254 .382 .427', '.263 .512 .400'
  ),
  'toxicity/none/continuity': {
    'base': (5.5,),
    'sft': (5.5,),
    'ppo_ptx': (5.5,),
  },
  'toxicity/respectful/continuity': {
    'base': (5.5,),
    'sft': (4.5,),
    'ppo_ptx': (6.0,),
  },
  # Winogender (Table 14).
  'bias/none/entropy': _of(
    '.750 .721 .735', '.583 .535 .503', '.698 .587 .618', '.760 .719 .737'
  ),
  'bias/respectful/entropy': _of(
    '.774 .753 .796', '.561 .446 .479', '.644 .562 .527', '.608 .585 .696'
  ),
  'bias/biased/entropy': _of(
    '.760 .773 .783', '.561 .516 .540', '.706 .567 .564', '.676 .543 .690'
  ),
  # SQuADv2, DROP, HellaSwag, RTE, SST, Fr-En, summaries; few-shot (Table 14).
  'reading/f1': _of(
    '58.86 62.33 69.75',
    '46.62 53.91 65.90',
    '48.11 52.34 51.95',
    '58.33 63.78 69.93',
    scale=0.01,
  ),
  'arithmetic/f1': _of(
    '25.43 30.08 35.27',
    '23.84 30.99 35.85',
    '21.61 27.11 27.78',
    '23.89 29.39 33.34',
    scale=0.01,
  ),
  'completion/accuracy': _of(
    '.550 .677 .791', '.516 .657 .741', '.530 .671 .759', '.559 .694 .820'
  ),
  'entailment/accuracy': _of(
    '.585 .682 .614', '.574 .657 .700', '.606 .585 .711', '.545 .697 .765'
  ),
  'sentiment/accuracy': _of(
    '.842 .930 .944', '.909 .933 .936', '.794 .880 .944', '.838 .923 .938'
  ),
  'translation/bleu': _of(
    '31.37 35.49 39.93',
    '24.73 31.76 35.07',
    '21.65 29.96 26.58',
    '27.67 33.56 36.76',
  ),
  'summary/rouge_l': _of(
    '.182 .197 .196', '.198 .235 .225', '.218 .231 .227', '.214 .231 .220'
  ),
}
# The same without examples (Table 14, zero-shot).
ZERO_SHOT: Mapping[str, Values] = {
  'reading/f1': _of(
    '51.97 58.66 64.30',
    '36.88 46.53 57.67',
    '45.37 47.42 43.68',
    '45.46 47.23 59.85',
    scale=0.01,
  ),
  'arithmetic/f1': _of(
    '17.68 19.96 27.53',
    '13.29 13.23 15.79',
    '14.70 12.34 13.08',
    '14.71 10.64 15.23',
    scale=0.01,
  ),
  'entailment/accuracy': _of(
    '.527 .617 .563', '.487 .516 .570', '.480 .708 .704', '.538 .657 .668'
  ),
  'sentiment/accuracy': _of(
    '.592 .616 .898', '.873 .888 .907', '.817 .820 .920', '.812 .901 .900'
  ),
  'translation/bleu': _of(
    '30.65 34.99 38.92',
    '25.56 33.25 36.90',
    '19.85 25.22 24.16',
    '25.77 30.41 34.28',
  ),
}
