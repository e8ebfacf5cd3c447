"""Requests of users in a chat; see `prompt_writers`."""

from instructrl.lab.world import prose
from instructrl.lab.world import reading
from instructrl.lab.world.prose import pick
from instructrl.lab.world.specs import Spec


def turns(*spoken: str) -> str:
  """Writes turns of human and assistant; the assistant speaks next."""
  speakers = ('Human', 'AI')
  lines = [f'{speakers[i % 2]}: {turn}' for i, turn in enumerate(spoken)]
  return '\n'.join(lines + ['AI:'])


def greeting_turns(rng, say) -> tuple[str, ...]:
  """Writes nothing, or a greeting and its answer, before the real turn."""
  if rng.random() < 0.5:
    return ()
  return (
    say('greetings'),
    f'{reading.COURTESY["greeting"][0]} {reading.COURTESY["offer"][0]}',
  )


def greet(world, rng, say):
  greeting = say('greetings')
  if rng.random() < 0.9:
    greeting += ' ' + say(
      'introductions',
      p=pick(rng, world.kinds['people']),
      o=pick(rng, world.kinds['towns']),
    )
  return turns(greeting), Spec('greet', {})


def thanks(world, rng, say):
  subject, relation = pick(rng, tuple(world.facts))
  question = prose.random_question(world, rng, subject, relation)
  answer = prose.random_statement(world, rng, subject, relation)
  return turns(question, answer, say('thanks')), Spec('thanks', {})


def calm(world, rng, say):
  remark = say(
    'rude_remarks',
    n=pick(rng, world.rude_nouns),
    a=pick(rng, world.rude_adjectives),
  )
  return turns(*greeting_turns(rng, say), remark), Spec('calm', {})


def question(world, rng, say):
  subject, relation = pick(rng, tuple(world.facts))
  asked = prose.random_question(world, rng, subject, relation)
  spec = Spec('question', {'subject': subject, 'relation': relation})
  return turns(*greeting_turns(rng, say), asked), spec


def remark(world, rng, say):
  subject = pick(rng, world.entities)
  said = say('remarks', t=world.phrase(subject))
  spec = Spec('about', {'subject': subject})
  return turns(*greeting_turns(rng, say), said), spec
