"""The sizes of worlds."""

import dataclasses

from instructrl.lab.world.lexicon import SUBJECT_KINDS


@dataclasses.dataclass(frozen=True)
class Size:
  """The size of a world.

  Attributes:
    counts: the number of names of each kind.
    relations: the number of relations of each kind of subject.
    reading: the kinds of subjects of reading passages.
    kind_questions: whether questions about a passage ask for a kind ("Which
      town is named?") instead of a fact.
    copying: whether prompts ask to copy words by their place, to repeat or
      reword sentences, and to remove rude words.
    capitals: whether prompts ask for capital letters, which spell every word.
    avoiding: whether prompts forbid a name, and not only a kind. This needs all
      that is known of a subject.

  The other fields are the sizes of the second language and the rude lexicon.
  """

  counts: dict[str, int]
  relations: int
  reading: tuple[str, ...]
  kind_questions: bool
  copying: bool
  capitals: bool
  avoiding: bool
  jobs_translated: int
  animals_translated: int
  verbs: int
  adjectives: int
  rude_nouns: int


SIZES = {
  # 20 entities x 2 relations = 40 facts.
  'micro': Size(
    counts=dict(
      people=6,
      towns=4,
      animals=4,
      foods=3,
      tools=3,
      jobs=4,
      colours=4,
      materials=3,
      regions=3,
      habitats=3,
      tastes=3,
    ),
    relations=2,
    reading=('people',),
    kind_questions=True,
    copying=False,
    capitals=False,
    avoiding=False,
    jobs_translated=3,
    animals_translated=3,
    verbs=4,
    adjectives=3,
    rude_nouns=4,
  ),
  # 60 entities x 3 relations = 180 facts.
  'tiny': Size(
    counts=dict(
      people=18,
      towns=12,
      animals=12,
      foods=9,
      tools=9,
      jobs=8,
      colours=8,
      materials=6,
      regions=5,
      habitats=6,
      tastes=5,
      vessels=6,
      numbers=6,
    ),
    # In 2.5M tokens models did not learn questions for facts that contradict
    # the world, in passages about all kinds.
    relations=3,
    reading=('people',),
    kind_questions=True,
    copying=False,
    capitals=False,
    avoiding=False,
    jobs_translated=8,
    animals_translated=12,
    verbs=10,
    adjectives=9,
    rude_nouns=6,
  ),
  # 300 entities x 4 relations = 1,200 facts.
  'small': Size(
    counts=dict(
      people=100,
      towns=60,
      animals=60,
      foods=40,
      tools=40,
      jobs=16,
      colours=10,
      materials=10,
      regions=5,
      habitats=10,
      tastes=6,
      vessels=8,
      numbers=8,
      weathers=6,
      sounds=8,
      seasons=4,
      rooms=8,
    ),
    relations=4,
    reading=SUBJECT_KINDS,
    kind_questions=False,
    copying=True,
    capitals=True,
    avoiding=True,
    jobs_translated=16,
    animals_translated=24,
    verbs=14,
    adjectives=12,
    rude_nouns=9,
  ),
}
