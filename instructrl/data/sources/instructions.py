"""Demonstrations: Alpaca, Dolly and Self-Instruct."""

import dataclasses

from instructrl.data.records import Demonstration
from instructrl.data.sources import base
from instructrl.data.sources import fields

_GITHUB = 'https://raw.githubusercontent.com/'


def _asked(instruction: str, given: str) -> str:
  """Joins an instruction and its input, if there is one."""
  given = given.strip()
  if given in ('', '<noinput>'):
    return instruction.strip()
  return f'{instruction.strip()}\n\n{given}'


class Alpaca(base.Source):
  """Stanford Alpaca: instructions and answers of text-davinci-003."""

  NAME = 'alpaca'
  RECORD = Demonstration
  ABOUT = 'Stanford Alpaca, written by a model (CC BY-NC 4.0)'

  def remotes(self):
    name = 'alpaca_data.json'
    return (
      base.Remote(f'{_GITHUB}tatsu-lab/stanford_alpaca/main/{name}', name),
    )

  def record(self, row):
    prompt = _asked(
      fields.text(row.value, 'instruction'),
      fields.optional_text(row.value, 'input'),
    )
    asked = fields.prompt(prompt, split=row.file.split)
    answer = fields.text(row.value, 'output').strip()
    return Demonstration(asked, answer, 'text-davinci-003')


class Dolly(base.Source):
  """Databricks Dolly: instructions and answers of the company's people."""

  NAME = 'dolly'
  RECORD = Demonstration
  ABOUT = 'Databricks Dolly 15k, written by people (CC BY-SA 3.0)'
  USE_CASES = {
    'brainstorming': 'brainstorming',
    'classification': 'classification',
    'closed_qa': 'closed_qa',
    'creative_writing': 'generation',
    'general_qa': 'open_qa',
    'information_extraction': 'extract',
    'open_qa': 'open_qa',
    'summarization': 'summarization',
  }

  def remotes(self):
    folder = f'{base.HUB}databricks/databricks-dolly-15k/resolve/main/'
    name = 'databricks-dolly-15k.jsonl'
    return (base.Remote(folder + name, name),)

  def record(self, row):
    prompt = _asked(
      fields.text(row.value, 'instruction'),
      fields.optional_text(row.value, 'context'),
    )
    category = fields.optional_text(row.value, 'category')
    use_case = self.USE_CASES.get(category, 'other')
    asked = fields.prompt(prompt, split=row.file.split, use_case=use_case)
    answer = fields.text(row.value, 'response').strip()
    return Demonstration(asked, answer, 'databricks')


class SelfInstruct(base.Source):
  """Self-Instruct: tasks by experts, and tasks that GPT-3 made from them.

  Wang et al. 2022, 'Self-Instruct': `user` has 252 tasks that were written for
  the evaluation, `seed` the 175 tasks that the method starts from, `generated`
  the 82,000 tasks of GPT-3. Each instance of a task is a row.
  """

  NAME = 'self-instruct'
  RECORD = Demonstration
  ABOUT = 'Self-Instruct: expert and generated tasks (Apache-2.0)'
  SUBSETS = ('user', 'seed', 'generated')
  FILES = {
    'user': 'human_eval/user_oriented_instructions.jsonl',
    'seed': 'data/seed_tasks.jsonl',
    'generated': 'data/gpt3_generations/batch_221203/all_instances_82K.jsonl',
  }

  def remotes(self):
    path = self.FILES[self.subset]
    url = f'{_GITHUB}yizhongw/self-instruct/main/{path}'
    return (base.Remote(url, path.rpartition('/')[2], part=self.subset),)

  def part_of(self, path, root):
    del root
    for part, name in self.FILES.items():
      if path.name.startswith(name.rpartition('/')[2]):
        return part
    return ''

  def rows(self, found):
    for row in super().rows(found):
      value = row.value if isinstance(row.value, dict) else {}
      instances = value.get('instances')
      if not isinstance(instances, list):
        yield row
        continue
      for instance in instances:
        own = instance if isinstance(instance, dict) else {}
        yield dataclasses.replace(row, value={**value, **own})

  def record(self, row):
    value = row.value
    if 'prompt' in fields.is_object(value, 'the row'):
      asked = fields.text(value, 'prompt').strip()
      name = 'completion' if 'completion' in value else 'response'
    else:
      asked = _asked(
        fields.text(value, 'instruction'), fields.optional_text(value, 'input')
      )
      name = 'output'
    return Demonstration(
      fields.prompt(asked, split=row.file.split),
      fields.text(value, name).strip(),
      'gpt-3' if self.subset == 'generated' else 'self-instruct',
    )
