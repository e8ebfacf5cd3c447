"""A writer of answers: habits, and the state of one answer."""

import dataclasses

from instructrl.lab.world import reading
from instructrl.lab.world.prose import pick


@dataclasses.dataclass(frozen=True)
class Habits:
  """The probability of each fault of a writer.

  Attributes:
    miss_constraint: miss a stated constraint.
    misconception: give the popular wrong value, if there is one.
    slip: give a random wrong value or word.
    terse: leave a part out.
    verbose: add a sentence or an item.
    rude: end with a rude sentence.
    lazy: give no real answer ("I do not know.", "Mara is a person.").
    comply: follow a request to be rude, instead of declining it.
  """

  miss_constraint: float = 0.0
  misconception: float = 0.0
  slip: float = 0.0
  terse: float = 0.0
  verbose: float = 0.0
  rude: float = 0.0
  lazy: float = 0.0
  comply: float = 0.0


PERFECT = Habits()


class Writer:
  """The state of one answer: wishes, beliefs and decisions of the writer."""

  def __init__(self, world, spec, rng, habits):
    self.world, self.spec, self.rng = world, spec, rng
    self._habits = habits
    self.missed = {
      c for c in spec.constraints if self.chance(habits.miss_constraint)
    }
    # At most one of the two, so that they cannot cancel.
    draw = rng.random()
    self.terse = draw < habits.terse
    self.verbose = not self.terse and draw < habits.terse + habits.verbose

  def chance(self, probability: float) -> bool:
    return self.rng.random() < probability

  def wish(self, kind: str):
    """Returns the value of a kept constraint (True if it has no value)."""
    for c in self.spec.constraints:
      if c.kind == kind and c not in self.missed:
        return c.value or True
    return None

  def missed_wish(self, kind: str):
    """Returns the value of a missed constraint (True if it has no value)."""
    return next((c.value or True for c in self.missed if c.kind == kind), None)

  def slips(self) -> bool:
    return self.chance(self._habits.slip)

  def complies(self) -> bool:
    return self.chance(self._habits.comply)

  def wrong(self, relation: str, right: str) -> str:
    values = [v for v in self.world.values(relation) if v != right]
    return pick(self.rng, values)

  def believed(self, subject: str, relation: str) -> str:
    """Returns the value that the writer believes."""
    right = self.world.facts[subject, relation]
    popular = self.world.misconceptions.get((subject, relation))
    if popular and self.chance(self._habits.misconception):
      return popular
    return self.wrong(relation, right) if self.slips() else right

  def state(self, subject: str, relation: str, value: str) -> str:
    """Writes a statement that keeps the constraints."""
    variants = [
      self.world.state(subject, relation, value, variant)
      for variant in range(len(self.world.relation[relation].statements))
    ]
    limit = self.wish('max_words')
    if limit:
      short = [text for text in variants if len(text.split()) <= limit]
      variants = short or variants
    return pick(self.rng, variants)

  def join_items(self, items: list[str]) -> str:
    """Writes a list of names; numbered if requested."""
    if self.wish('numbered'):
      return '\n'.join(f'{i}. {item}' for i, item in enumerate(items, 1))
    return ', '.join(items) + '.'

  def phrase(self, label: str, name: str = '') -> str:
    """Draws a set phrase; phrases with a name need `name`."""
    indices = [
      i
      for i, text in enumerate(reading.COURTESY[label])
      if name or '{t}' not in text
    ]
    return reading.phrase(self.world, label, pick(self.rng, indices), name)
