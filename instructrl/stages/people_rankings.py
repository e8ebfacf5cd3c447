"""Rankings by people, in the place of the lab's labelers.

The stage `rankings` writes its candidates as a labeling project
(`feedback.project`) beside its run folder, and waits. People rank on the page
of the project. When enough prompts are ranked, the next start of the same
command reads the rankings and goes on.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import shlex

from instructrl.data import tasks
from instructrl.data.records import Prompt, Ranking
from instructrl.feedback import PORT
from instructrl.feedback import project
from instructrl.runtime import exits
from instructrl.runtime import files
from instructrl.runtime import origins
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import inputs

MADE_FROM = 'made_from'  # in the project: a hash of what its answers come from


def validate(config) -> None:
  """Raises a ConfigError that names the field if a field of people is wrong."""
  if config.get('project'):
    checks.within(config.people, 'enough', prefix='people.', above=0, high=1)
    checks.require(
      config.max_responses <= project.MAX_RESPONSES,
      f'max_responses must be at most {project.MAX_RESPONSES}, the letters of '
      f'the page; got {config.max_responses}',
    )


class Asked:
  """The labeling project of a run."""

  def __init__(self, folder: pathlib.Path, config, made_from: str):
    self._folder, self._config = folder, config
    self._made_from = made_from

  @classmethod
  def of(cls, config, workdir) -> 'Asked | None':
    """Returns the project of a run; None if the lab's labelers rank."""
    value = config.get('project')
    if not value:
      return None
    of = {
      'config': run_folder.fixed_part(config.to_dict()),
      'inputs': origins.digest(workdir),
    }
    folder = inputs.locate(workdir, value)
    return cls(folder, config, files.fingerprint(of))

  def exists(self) -> bool:
    """Returns whether the project is there.

    Raises:
      ConfigError: it has the answers of other policies or settings.
    """
    if not (self._folder / project.ITEMS).exists():
      return False
    path = self._folder / MADE_FROM
    checks.require(
      path.exists() and path.read_text('utf-8') == self._made_from,
      f'project: {self._folder} has answers that this run did not sample: '
      'another config or other policies made it. Restore them, or rename the '
      'folder to ask people again',
    )
    return True

  def create(self, prompts, pools, chosen) -> None:
    """Writes the project.

    Equal texts are one candidate, and a prompt with fewer than two is left out.
    Each split is spread over the project, so that people who rank a part of it
    rank a part of each split.

    Args:
      prompts: split -> prompts.
      pools: split -> candidates of each prompt, see `rankings.candidates`.
      chosen: (split, group) -> numbers of the candidates of each prompt; people
        of both groups see those of 'train'.
    """
    placed = []
    for split, data in prompts.items():
      for i, (prompt, pool, numbers) in enumerate(
        zip(data, pools[split], chosen[split, 'train'], strict=True)
      ):
        shown: dict[str, dict] = {}
        for number in numbers.tolist():
          shown.setdefault(pool[number]['text'], pool[number])
        responses = [
          project.Candidate(c['text'], c['source'], c['temperature'])
          for c in shown.values()
        ]
        if len(responses) > 1:
          task = project.Task(prompt, tuple(responses))
          placed.append(((i + 0.5) / len(data), task))
    checks.require(
      bool(placed),
      'no prompt has two different candidates: use higher temperatures in '
      'sources',
    )
    self._folder.mkdir(parents=True, exist_ok=True)
    files.atomic_write(self._folder / MADE_FROM, self._made_from)
    placed.sort(key=lambda pair: pair[0])
    made = [task for _, task in placed]
    project.create(self._folder, made, project.ProjectSettings())

  def rankings(
    self, prompts: Mapping[str, Sequence[Prompt]], tok
  ) -> dict[str, list[Ranking]]:
    """Returns split -> what people ranked, in tokens.

    Args:
      prompts: split -> prompts of the project.
      tok: the tokenizer.

    Raises:
      exits.Waiting: fewer prompts than the fraction people.enough are ranked,
        or none of the split 'train'.
    """
    found, done, asked = self._read()
    usable = any(record.prompt.split == 'train' for record in found)
    enough = usable and done >= self._config.people.enough * asked
    if not processes.agree(enough):
      raise exits.Waiting(self._to_do(done, asked))
    known = {p.id: p for data in prompts.values() for p in data}
    records: dict[str, list[Ranking]] = {split: [] for split in prompts}
    for record in found:
      prompt = known[record.prompt.id]
      records[prompt.split].append(self._in_tokens(record, prompt, tok))
    return {split: some for split, some in records.items() if some}

  def _to_do(self, done: int, asked: int) -> str:
    """Returns what people have to do before the run goes on."""
    state = (
      f'{done} of {asked} prompts are ranked or skipped, and '
      f'{self._config.people.enough:.0%} are wanted (people.enough)'
    )
    if done == asked:
      state = (
        'no training prompt is ranked: raise max_skips in project.json, so '
        'that other labelers get the prompts that were skipped'
      )
    folder = shlex.quote(str(self._folder))
    where = ' --database URL' if self._config.people.database else ''
    return (
      f'waiting for people: {state}. Serve the page with: python -m '
      f'instructrl.label serve {folder}{where} (http://127.0.0.1:{PORT}), then '
      'start this command again'
    )

  def _read(self) -> tuple[list[Ranking], int, int]:
    """Returns (rankings, prompts that need no training labeler, prompts)."""
    try:
      from instructrl.feedback import desk
      from instructrl.feedback import events
      from instructrl.feedback import exports
    except ModuleNotFoundError as error:
      raise checks.ConfigError(
        f'project: the package {error.name} is missing: '
        'pip install "instructrl[label]"'
      ) from error
    log = events.EventLog(self._folder, self._config.people.database)
    opened = desk.Desk(project.Project(self._folder), log)
    asked = len(opened.items)
    return exports.rankings(opened), asked - opened.needed()['train'], asked

  def _in_tokens(self, record: Ranking, prompt: Prompt, tok) -> Ranking:
    return dataclasses.replace(
      record,
      prompt=prompt,
      response_tokens=tuple(
        tuple(tasks.response_tokens(tok, text, self._config.response_len))
        for text in record.responses
      ),
      prompt_tokens=tuple(tasks.chat_prompt(tok, prompt)),
    )
