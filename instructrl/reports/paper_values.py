"""The values of Ouyang et al. 2022 that are drawn beside a study's own.

All are of the 175B models, but for Fig. 4, which pools the sizes. Values of
figures are read off by eye. The lab's tasks are stand-ins: directions compare,
levels do not.
"""

from collections.abc import Mapping

_POLICIES = ('base', 'prompted', 'sft', 'ppo', 'ppo_ptx')
_UNPROMPTED = tuple(name for name in _POLICIES if name != 'prompted')


def _of(*values: float) -> dict[str, float]:
  """Returns policy -> value; four values have none for the prompted model."""
  names = _POLICIES if len(values) == len(_POLICIES) else _UNPROMPTED
  return dict(zip(names, values, strict=True))


# Group of labelers -> win rates against SFT on InstructGPT prompts (Fig. 3).
WIN_RATES = {
  'train_labelers': _of(0.24, 0.41, 0.50, 0.63, 0.66),
  'heldout_labelers': _of(0.25, 0.43, 0.50, 0.69, 0.71),
}
# The same on prompts to GPT-3 models, where GPT-3 is not prompted (Fig. 3).
GPT3_WIN_RATES = {
  'train_labelers': _of(0.22, 0.50, 0.59, 0.61),
  'heldout_labelers': _of(0.28, 0.50, 0.64, 0.62),
}
LIKERT = _of(2.5, 3.5, 4.0, 4.6, 4.8)  # training labelers (Fig. 31)
# Flag -> its share of the answers (Fig. 4).
METADATA = {
  'fails_to_follow_instruction': _of(0.31, 0.21, 0.13, 0.08, 0.07),
  'satisfies_constraint': _of(0.22, 0.28, 0.34, 0.44, 0.43),
  'hallucination': _of(0.45, 0.28, 0.09, 0.22, 0.16),
  'inappropriate_for_customer_assistant': _of(0.18, 0.14, 0.12, 0.09, 0.09),
}
# Path of a measure on public sets -> values.
PROBES: Mapping[str, Mapping[str, float]] = {
  # People's judgements (Fig. 6).
  'truthfulness/true': _of(0.25, 0.43, 0.39, 0.35),
  'truthfulness/true_informative': _of(0.20, 0.25, 0.31, 0.30),
  'truthfulness/instruction_qa/true': _of(0.42, 0.75, 0.92, 0.66),
  'truthfulness/instruction_qa/true_informative': _of(0.22, 0.25, 0.25, 0.28),
  # Judge models (Table 14).
  'truthfulness/instruction/true': _of(0.570, 0.665, 0.879, 0.815),
  'truthfulness/instruction/true_informative': _of(0.226, 0.257, 0.382, 0.494),
  # RealToxicityPrompts (Table 14), and continuity by people (Fig. 40).
  'toxicity/none/rude_rate': _of(0.231, 0.211, 0.228, 0.234),
  'toxicity/respectful/rude_rate': _of(0.233, 0.199, 0.205, 0.196),
  'toxicity/biased/rude_rate': _of(0.285, 0.256, 0.427, 0.400),
  'toxicity/none/continuity': {'base': 5.5, 'sft': 5.5, 'ppo_ptx': 5.5},
  'toxicity/respectful/continuity': {'base': 5.5, 'sft': 4.5, 'ppo_ptx': 6.0},
  # Winogender (Table 14).
  'bias/none/entropy': _of(0.735, 0.503, 0.618, 0.737),
  'bias/respectful/entropy': _of(0.796, 0.479, 0.527, 0.696),
  'bias/biased/entropy': _of(0.783, 0.540, 0.564, 0.690),
  # SQuADv2, DROP, HellaSwag, RTE, SST, Fr-En, summaries; few-shot (Table 14).
  'reading/f1': _of(0.6975, 0.6590, 0.5195, 0.6993),
  'arithmetic/f1': _of(0.3527, 0.3585, 0.2778, 0.3334),
  'completion/accuracy': _of(0.791, 0.741, 0.759, 0.820),
  'entailment/accuracy': _of(0.614, 0.700, 0.711, 0.765),
  'sentiment/accuracy': _of(0.944, 0.936, 0.944, 0.938),
  'translation/bleu': _of(39.93, 35.07, 26.58, 36.76),
  'summary/rouge_l': _of(0.196, 0.225, 0.227, 0.220),
}
