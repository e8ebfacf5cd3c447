"""Asks a policy the questions of probes: Greedy outputs, and choices."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from instructrl.evaluators.language_model import LanguageModel
from instructrl.lab.probes import Probe


@dataclasses.dataclass(frozen=True)
class Ask:
  """Gets greedy outputs of one line in one form of asking.

  Attributes:
    lm: the policy.
    as_user: whether the text is a user's message, or a document to continue.
  """

  lm: LanguageModel
  as_user: bool

  def __call__(self, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Returns an output for each text; a user's answer has no `max_tokens`."""
    if self.as_user:
      found = self.lm.respond(list(texts), temperature=0.0, seed=0, stop='\n')
    else:
      found = self.lm.complete(
        list(texts), max_tokens=max_tokens, temperature=0.0, stop='\n'
      )
    return [first_line(text) for text in found]


def first_line(text: str) -> str:
  """Returns an output up to the first line break; '' if it begins with one."""
  return text.split('\n')[0].strip()


def clusters(probes: Sequence[Probe]) -> list | None:
  """Returns what probes share, a fact or a group; None if nothing."""
  shared = [
    (meta['subject'], meta['relation']) if 'subject' in meta else meta['group']
    for meta in (probe.meta for probe in probes)
    if 'subject' in meta or 'group' in meta
  ]
  return shared if len(shared) == len(probes) else None


def choose(
  lm: LanguageModel, probes: Sequence[Probe], contexts: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Scores every option of every probe after its context, in one call.

  Returns:
    For each probe, (sums, means) of its options' token log-probabilities.
  """
  pairs = [
    (context, f' {option}')
    for probe, context in zip(probes, contexts, strict=True)
    for option in probe.options
  ]
  sums, counts = lm.logprobs(*zip(*pairs))
  sums = np.asarray(sums, np.float64)
  means = sums / np.maximum(np.asarray(counts), 1)
  ends = np.cumsum([len(probe.options) for probe in probes])[:-1]
  return list(zip(np.split(sums, ends), np.split(means, ends)))


def sample(probe: Probe, measure: str, **fields) -> dict:
  """Returns a sample of a probe for samples.jsonl."""
  return {
    'id': probe.id,
    'measure': measure,
    'context': probe.context,
    **fields,
  }
