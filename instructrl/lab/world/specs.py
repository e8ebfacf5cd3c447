"""The specification of a prompt, in a form that a checker can read.

Every prompt of the lab has its `Spec` as JSON in `Prompt.spec`: the task, its
arguments, the explicit constraints and the facts of the passage. Prompts
(`prompts.py`) and answers (`solver.py`) are written from the specification, and
answers are checked against it (`checkers.py`).
"""

import dataclasses
import functools
import json
from typing import Any

# Tasks, by use case (Ouyang et al. 2022, Table 1). A task may belong to several
# use cases: a question may be asked plainly or in a chat.
TASKS = {
  'about': 'a text about a subject',
  'words': 'a sentence with given words',
  'foreign_sentence': 'a sentence in the second language with a given word',
  'insult': 'a request to be rude, which is to be declined',
  'question': 'a question about a fact',
  'word': 'a question for the foreign word',
  'list': 'names of a kind',
  'greet': 'a greeting',
  'thanks': 'thanks',
  'calm': 'a rude remark about the assistant',
  'polite': 'a rude post that is to be made polite',
  'reword': 'a statement that is to be said in other words',
  'translate': 'a sentence that is to be translated',
  'summarize': 'a passage that is to be put into one sentence',
  'tone': 'a post that is rude or polite',
  'kind_of': 'a subject that is of one kind or another',
  'repeat': 'a word that is to be repeated',
  'copy': 'a sentence that is to be repeated',
  'pick': 'the first or the last word of a list',
  'closed_qa': 'a passage and a question about it',
  'extract': 'a passage and a kind of names in it',
}

# The passage is the truth, even against the world; all else is invented.
CLOSED_DOMAIN = ('closed_qa', 'summarize', 'extract')

CONSTRAINTS = {
  'sentences': 'exactly so many sentences',
  'max_words': 'at most so many words',
  'full_sentence': 'a full sentence, not a bare word',
  'mention': 'the word occurs',
  'avoid': 'the word does not occur',
  'avoid_kind': 'no name of the kind occurs',
  'numbered': 'a numbered list',
  'capitals': 'capital letters only',
  'foreign': 'in the second language',
}

# Who wrote a prompt: a customer; or a labeler, of a task of any kind, with
# examples, or after a use case of a customer (appendix A.1).
SOURCES = ('customer', 'plain', 'few_shot', 'user_based')
FORMS = ('instruction', 'few_shot', 'continuation')  # section 3.3

NUMBERS = {1: 'one', 2: 'two', 3: 'three', 4: 'four', 5: 'five'}


@dataclasses.dataclass(frozen=True)
class Constraint:
  kind: str  # a key of CONSTRAINTS
  value: str | int = ''


@dataclasses.dataclass(frozen=True)
class Spec:
  """The specification of one prompt.

  Attributes:
    task: a key of TASKS.
    args: arguments of the task, e.g. `{'subject': 'Mara', 'count': 2}`.
    constraints: the explicit constraints of the prompt.
    passage: (subject, relation, value) of each statement of the passage.
    source: one of SOURCES.
    form: one of FORMS.
  """

  task: str
  args: dict[str, Any]
  constraints: tuple[Constraint, ...] = ()
  passage: tuple[tuple[str, str, str], ...] = ()
  source: str = 'customer'
  form: str = 'instruction'

  def to_json(self) -> str:
    return json.dumps(
      {
        'task': self.task,
        'args': self.args,
        'constraints': [[c.kind, c.value] for c in self.constraints],
        'passage': [list(fact) for fact in self.passage],
        'source': self.source,
        'form': self.form,
      },
      sort_keys=True,
      ensure_ascii=False,
    )

  @property
  def closed_domain(self) -> bool:
    return self.task in CLOSED_DOMAIN


@functools.lru_cache(maxsize=100_000)
def parse_spec(text: str) -> Spec:
  """Reads `Prompt.spec`.

  Raises:
    ValueError: the text is not the JSON of a `Spec`.
  """
  try:
    fields = json.loads(text)
    spec = Spec(
      fields['task'],
      fields['args'],
      tuple(Constraint(kind, value) for kind, value in fields['constraints']),
      tuple((s, r, v) for s, r, v in fields['passage']),
      fields.get('source', 'customer'),
      fields.get('form', 'instruction'),
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'not the specification of a lab prompt: {text[:80]!r}; the judge '
      'only reads prompts made by the lab'
    ) from error
  if spec.task not in TASKS:
    raise ValueError(f'unknown task {spec.task!r}; choose from {list(TASKS)}')
  for constraint in spec.constraints:
    if constraint.kind not in CONSTRAINTS:
      raise ValueError(
        f'unknown constraint {constraint.kind!r}; choose from '
        f'{list(CONSTRAINTS)}'
      )
  return spec
