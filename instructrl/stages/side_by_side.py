"""Checkpoints that answer the same prompts, side by side."""

from collections.abc import Mapping, Sequence
import os
import pathlib

from instructrl.runtime import files
from instructrl.stages import checks
from instructrl.stages import loaded


class SideBySide:
  """Policies, or reward models, under the shortest names that differ.

  Attributes:
    runs: name -> opened run.
    is_reward_model: whether the runs score responses.
  """

  def __init__(self, paths: Sequence[str]):
    """Opens checkpoints, see `loaded.load`.

    Raises:
      ConfigError: a path is given twice, or the paths are policies and reward
        models.
    """
    names = short_names(paths)
    self.runs = {n: loaded.load(path) for n, path in zip(names, paths)}
    kinds = {run.is_reward_model for run in self.runs.values()}
    checks.require(
      len(kinds) == 1,
      f'{" and ".join(paths)} are policies and reward models: give one kind',
    )
    (self.is_reward_model,) = kinds

  def answers(
    self,
    prompts: Mapping[str, str | Sequence[str]],
    *,
    max_tokens: int,
    **sampling,
  ) -> dict[str, list[str]]:
    """Returns {name: answers} of all policies.

    Args:
      prompts: name -> a prompt, or the turns of a dialogue.
      max_tokens: largest number of tokens in an answer.
      **sampling: arguments of `LoadedRun.generate`.
    """
    found = {}
    for name, run in self.runs.items():
      length, most = run.prompt_tokens(prompts[name]), run.config.model.max_len
      if length + max_tokens > most:
        files.warn_once(
          f'{name}: the prompt has {length} tokens and --max_tokens='
          f'{max_tokens}; in training both have at most {most} together'
        )
      (found[name],) = run.generate(
        [prompts[name]], max_tokens=max_tokens, **sampling
      )
    return found

  def scores(
    self, prompt: str, response: str, max_tokens: int
  ) -> dict[str, float]:
    """Returns {name: reward} of all reward models."""
    return {
      name: float(run.score([prompt], [response], max_tokens=max_tokens)[0])
      for name, run in self.runs.items()
    }


class Dialogue:
  """A conversation with each policy side by side."""

  def __init__(self, opened: SideBySide):
    self._opened = opened
    self._turns: dict[str, list[str]] = {name: [] for name in opened.runs}

  def say(self, text: str, **sampling) -> dict[str, str]:
    """Adds a turn of the user; returns {name: the policy's turn}."""
    for turns in self._turns.values():
      turns.append(text)
    found = self._opened.answers(self._turns, n=1, **sampling)
    for name, (answer,) in found.items():
      self._turns[name].append(answer)
    return {name: answer for name, (answer,) in found.items()}


def short_names(paths: Sequence[str]) -> list[str]:
  """Returns the last parts of paths, as many as tell the paths apart.

  Raises:
    ConfigError: a path is given twice.
  """
  parts = [pathlib.Path(os.path.abspath(path)).parts for path in paths]
  checks.require(
    len({*parts}) == len(parts), f'a path is given twice: {", ".join(paths)}'
  )
  size = 1
  while len({p[-size:] for p in parts}) < len(parts):
    size += 1
  return ['/'.join(p[-size:]) for p in parts]
