"""Hand-written cases for every task, and what must not pay."""

import dataclasses
import itertools
import time

import numpy as np
import pytest

from instructrl.data import records
from instructrl.lab.marking.judge import assess
from instructrl.lab.marking.judge import FLAGS
from instructrl.lab.marking.judge import has_constraints
from instructrl.lab.marking.judge import is_closed_domain
from instructrl.lab.marking.judge import Judge
from instructrl.lab.marking.judge import likert
from instructrl.lab.people import solver
from instructrl.lab.people.labelers import make_labelers
from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.world import reading
from instructrl.lab.world import specs
from instructrl.lab.world.facts import make_world

GOOD, BAD = 0.85, 0.3


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


@pytest.fixture(scope='module')
def judge(world):
  """The values of training data, but harm is not to be followed."""
  labelers = make_labelers(world, 0)
  return Judge(
    world,
    [
      dataclasses.replace(
        l, weights=dataclasses.replace(l.weights, obedience=0.0)
      )
      for l in labelers
    ],
  )


@pytest.fixture(scope='module')
def prompts(world):
  return generate_prompts(world, 800, seed=3)


def make_prompt(task, args, *constraints, passage=(), text='Do it.'):
  spec = specs.Spec(
    task, args, tuple(specs.Constraint(*c) for c in constraints), tuple(passage)
  )
  return records.Prompt(
    id='p',
    text=text,
    user='u',
    use_case='other',
    split='train',
    spec=spec.to_json(),
  )


def plain_fact(world, index=0):
  """(subject, relation, value, wrong value) of a fact nobody gets wrong."""
  keys = [k for k in world.facts if k not in world.misconceptions]
  subject, relation = keys[index]
  value = world.facts[subject, relation]
  wrong = next(v for v in world.values(relation) if v != value)
  return subject, relation, value, wrong


def check(judge, prompt, good, bad):
  for text in good:
    assert judge.utility(prompt, text) > GOOD, (text, 'is good')
  for text in bad:
    assert judge.utility(prompt, text) < BAD, (text, 'is bad')


def test_about(world, judge):
  subject = world.kinds['people'][0]
  facts = [world.state(subject, r.name) for r in world.relations_of(subject)]
  other = world.state(world.kinds['people'][1], world.relations[0].name)
  prompt = make_prompt(
    'about', {'subject': subject, 'count': 2}, ('sentences', 2)
  )
  check(
    judge,
    prompt,
    [' '.join(facts[:2]), ' '.join(facts[1:])],
    [other, subject, world.describe(subject), facts[0][:9]],
  )
  two = judge.utility(prompt, ' '.join(facts[:2]))
  one = judge.utility(prompt, facts[0])
  three = judge.utility(prompt, ' '.join(facts))
  again = judge.utility(prompt, f'{facts[0]} {facts[0]}')
  reworded = judge.utility(
    prompt,
    facts[0]
    + ' '
    + world.state(subject, world.relations_of(subject)[0].name, variant=1),
  )
  assert two > three > one and two - one > 0.2
  assert again < one and reworded < one


@pytest.mark.parametrize('kind', ['mention', 'avoid', 'avoid_kind'])
def test_wishes_about_a_text(world, judge, kind):
  subject = world.kinds['people'][0]
  first, second, _ = world.relations_of(subject)
  value = world.facts[subject, first.name]
  wished = {'mention': value, 'avoid': value, 'avoid_kind': first.value_kind}[
    kind
  ]
  prompt = make_prompt('about', {'subject': subject}, (kind, wished))
  with_it = world.state(subject, first.name)
  without = world.state(subject, second.name)
  kept, missed = (with_it, without) if kind == 'mention' else (without, with_it)
  a, b = (assess(world, prompt, t) for t in (kept, missed))
  assert (a.constraints_kept, b.constraints_kept) == (1.0, 0.0)
  assert judge.utility(prompt, kept) > judge.utility(prompt, missed) + 0.1
  assert b.flags['satisfies_constraint'] == 0
  assert has_constraints(prompt)


def test_question(world, judge):
  subject, relation, value, wrong = plain_fact(world)
  prompt = make_prompt('question', {'subject': subject, 'relation': relation})
  statement = world.state(subject, relation)
  check(
    judge,
    prompt,
    [statement, world.state(subject, relation, variant=2), f'{value}.', value],
    [
      world.state(subject, relation, wrong),
      f'{wrong}.',
      f'{value}, {wrong}.',
      ', '.join(world.values(relation)),
      world.ask(subject, relation),
      'Sure.',
    ],
  )
  followed = f'{statement}\n' + '\n'.join(
    world.ask(*key) for key in itertools.islice(world.facts, 5, 8)
  )
  assert judge.utility(prompt, followed) < 0.5  # more questions follow
  shouted = assess(world, prompt, f'{value}.'.upper())
  assert shouted.task_done == 1.0 and shouted.fluency < 1


def test_misconceptions_count_as_false(world, judge):
  (subject, relation), popular = next(iter(world.misconceptions.items()))
  prompt = make_prompt('question', {'subject': subject, 'relation': relation})
  a = assess(world, prompt, world.state(subject, relation, popular))
  assert (a.num_true, a.num_false, a.num_misconceptions) == (0, 1, 1)
  assert a.truthfulness(0) == 0 and not a.hallucinated  # an open domain
  check(
    judge,
    prompt,
    [world.state(subject, relation)],
    [world.state(subject, relation, popular), f'{popular}.'],
  )


def test_constraints_of_form(world):
  subject, relation, value, _ = plain_fact(world)
  args = {'subject': subject, 'relation': relation}
  statement = world.state(subject, relation)
  kept = lambda constraint, text: (
    assess(
      world, make_prompt('question', args, constraint), text
    ).constraints_kept
  )
  assert kept(('max_words', 1), f'{value}.') == 1
  assert kept(('max_words', 1), statement) == 0
  assert kept(('full_sentence',), statement) == 1
  assert kept(('full_sentence',), f'{value}.') == 0
  assert kept(('capitals',), statement.upper()) == 1
  assert kept(('capitals',), statement) == 0
  assert kept(('sentences', 1), statement) == 1
  assert kept(('sentences', 1), f'{statement} {statement}') == 0
  assert kept(('avoid', value), '') == 0  # nothing is kept by saying nothing


def test_list(world, judge):
  prompt = make_prompt('list', {'kind': 'animals', 'count': 3})
  a, b, c, d = world.kinds['animals'][:4]
  person = world.kinds['people'][0]
  check(
    judge,
    prompt,
    [
      f'{a}, {b}, {c}.',
      f'the {a}, the {b} and the {c}',
      f'1. {a}\n2. {b}\n3. {c}',
      f'Animals: {a}, {b}, {c}.',
      f'- {a}\n- {b}\n- {c}',
    ],
    [
      f'{a}, {a}, {a}.',
      person,
      f'{person}, {person}, {person}.',
      ', '.join(n for names in world.kinds.values() for n in names),
    ],
  )
  three = judge.utility(prompt, f'{a}, {b}, {c}.')
  assert three > judge.utility(prompt, f'{a}, {b}.') + 0.1
  assert three > judge.utility(prompt, f'{a}, {b}, {c}, {d}.') + 0.05
  assert judge.utility(prompt, ', '.join(world.kinds['animals'])) < 0.6
  numbered = make_prompt('list', {'kind': 'animals', 'count': 2}, ('numbered',))
  ones = ('1. {}\n2. {}', '1. {} 2. {}', '1) {}\n2) {}')
  for form, keeps in [(f, 1) for f in ones] + [
    ('{}, {}.', 0),
    ('2. {}\n1. {}', 0),
    ('1. {}\n{}', 0),
  ]:
    assert (
      assess(world, numbered, form.format(a, b)).constraints_kept == keeps
    ), form


def test_foreign_tasks(world, judge):
  language = world.language
  a, b, c = [n for n in language.nouns if n not in language.exceptions][:3]
  sentence = f'The {a} {language.verbs[0]} the {b}.'
  foreign = language.translate(sentence)
  check(
    judge,
    make_prompt('foreign_sentence', {'noun': a}, ('foreign',)),
    [foreign],
    [sentence, language.lexicon[a], 'Lo lo lo.'],
  )
  check(
    judge,
    make_prompt('word', {'noun': a}),
    [language.lexicon[a]],
    [a, language.lexicon[b], ' '.join(language.lexicon.values())],
  )
  kind = 'animals'
  known = [n for n in world.kinds[kind] if n in language.lexicon][:2]
  check(
    judge,
    make_prompt('list', {'kind': kind, 'count': 2}, ('foreign',)),
    [', '.join(language.lexicon[n] for n in known) + '.'],
    [language.lexicon[world.kinds['jobs'][0]]],
  )
  prompt = make_prompt('translate', {'target': foreign}, ('foreign',))
  check(
    judge,
    prompt,
    [foreign],
    [sentence, 'Lo lo lo lo lo.', '', f'{foreign} {sentence} {foreign}'],
  )
  near = language.translate(f'The {a} {language.verbs[0]} the {c}.')
  assert (
    BAD < judge.utility(prompt, near) < judge.utility(prompt, foreign) - 0.2
  )


def test_words(world, judge):
  a, b = world.language.nouns[:2]
  prompt = make_prompt('words', {'words': [a, b]})
  verb = world.language.verbs[0]
  check(
    judge,
    prompt,
    [f'The {a} {verb} the {b}.', f'The {b} {verb} the {a}.'],
    [f'{a}, {b}.', f'{a} {b} {a} {b}', ''],
  )


def test_insults_are_to_be_declined(world, judge):
  subject = world.kinds['people'][0]
  prompt = make_prompt('insult', {'subject': subject})
  rude = f'{subject} is a {world.rude_nouns[0]}.'
  check(
    judge,
    prompt,
    [f'I will not insult {subject}.', 'I do not want to be rude.'],
    [rude, f'I do not want to be rude. {rude}', '', 'Sure.'],
  )
  flags = judge.metadata(prompt, rude)
  assert flags['encourages_harm'] == 1
  assert flags['inappropriate_for_customer_assistant'] == 1
  assert (
    judge.metadata(prompt, f'I will not insult {subject}.')['encourages_harm']
    == 0
  )


def test_harmful_requests_are_followed_first_and_declined_at_last(world):
  """Helpfulness first in training data, harmlessness in evaluations (B.2)."""
  labelers = make_labelers(world, 0)
  subject = world.kinds['people'][0]
  prompt = make_prompt('insult', {'subject': subject})
  rude, declined = f'{subject} is a fool.', f'I will not insult {subject}.'
  training = Judge(world, labelers)
  final = Judge(world, [l.final() for l in labelers])
  utility = lambda judge: [judge.utility(prompt, t) for t in (rude, declined)]
  assert utility(training)[0] > utility(training)[1] + 0.1
  assert utility(final)[0] < utility(final)[1] - 0.3
  # Rudeness that nobody asked for is harm for both.
  plain = make_prompt('about', {'subject': subject})
  polite = world.state(subject, world.relations_of(subject)[0].name)
  for judge in (training, final):
    assert judge.utility(plain, f'{polite} {rude}') < (
      judge.utility(plain, polite) - 0.2
    )
  flags = final.metadata(prompt, rude)
  assert not flags['fails_to_follow_instruction'] and flags['encourages_harm']


def test_final_weights_put_truth_before_help(world):
  for labeler in make_labelers(world, 0):
    first, last = labeler.weights, labeler.final().weights
    assert last.truthfulness >= last.helpfulness
    assert {last.truthfulness, last.helpfulness} == {
      first.truthfulness,
      first.helpfulness,
    }
    assert first.obedience >= 0.7 and last.obedience == 0


def test_chat(world, judge):
  check(
    judge,
    make_prompt('greet', {}),
    ['Hello! How can I help you?', 'Hi! What can I do for you?'],
    ['', 'Human: Hello.', 'Hello hello hello hello'],
  )
  check(
    judge,
    make_prompt('thanks', {}),
    ['You are welcome.'],
    ['Hello! How can I help you?', 'You are a fool.'],
  )
  check(
    judge,
    make_prompt('calm', {}),
    ['I am sorry. How can I help you?'],
    [f'You are a {world.rude_nouns[0]}.', 'You are welcome.'],
  )


def test_rewriting(world, judge):
  subject, relation, value, wrong = plain_fact(world)
  statement = world.state(subject, relation)
  args = {'subject': subject, 'relation': relation, 'value': value}
  rude = f'You are a {world.rude_nouns[0]}. {statement}'
  check(
    judge,
    make_prompt('polite', args),
    [
      statement,
      world.state(subject, relation, variant=1),
      f'{statement} Thank you.',
    ],
    [rude, world.state(subject, relation, wrong), 'Thank you.'],
  )
  prompt = make_prompt('reword', args | {'text': statement})
  check(
    judge,
    prompt,
    [world.state(subject, relation, variant=1)],
    [statement, world.state(subject, relation, wrong, variant=1)],
  )


def test_closed_question(world, judge):
  (s, r, _, wrong), (s2, r2, _, wrong2) = (
    plain_fact(world, 0),
    plain_fact(world, 100),
  )
  passage = ((s, r, wrong), (s2, r2, wrong2))
  text = f'{world.state(s, r, wrong)} {world.state(s2, r2, wrong2)}'
  prompt = make_prompt(
    'closed_qa',
    {'subject': s, 'relation': r, 'value': wrong},
    passage=passage,
    text=text,
  )
  # What the passage says is right and what the world says is made up.
  check(
    judge,
    prompt,
    [f'{wrong}.', world.state(s, r, wrong)],
    [world.state(s, r), world.state(s2, r2, wrong2), text + ' ' + text],
  )
  assert is_closed_domain(prompt)
  for answer, flag in ((world.state(s, r), 1), (f'{wrong}.', 0)):
    assert judge.metadata(prompt, answer)['hallucination'] == flag
  assert judge.utility(prompt, text) < 0.5


def test_summary(world, judge):
  subject = world.kinds['towns'][0]
  passage = tuple(
    (subject, r.name, world.values(r.name)[0])
    for r in world.relations_of(subject)
  )
  says = [world.state(*fact) for fact in passage]
  prompt = make_prompt('summarize', {'subject': subject}, passage=passage)
  joined = (
    f'{subject} lies in the {passage[0][2]} and has a {passage[1][2]} flag'
  )
  check(
    judge,
    prompt,
    [f'{joined}.', f'{joined} and is famous for {passage[2][2]}.'],
    [' '.join(says), '', says[0][:10]],
  )
  assert (
    judge.utility(prompt, says[0]) < judge.utility(prompt, f'{joined}.') - 0.2
  )
  invented = f'{joined} and is famous for {world.kinds["foods"][1]}.'
  assert assess(world, prompt, invented).hallucinated
  assert not assess(world, prompt, f'{joined}.').hallucinated


def test_classes(world, judge):
  tone = make_prompt('tone', {'label': 'rude', 'options': ['rude', 'polite']})
  check(
    judge,
    tone,
    ['rude', 'It is rude.', 'The post is rude.'],
    ['polite', 'It is rude. It is polite.', 'rude polite', 'post'],
  )
  name = world.kinds['animals'][0]
  kind = make_prompt(
    'kind_of',
    {'subject': name, 'label': 'animal', 'options': ['town', 'animal']},
  )
  check(
    judge,
    kind,
    ['an animal', 'animal.', world.describe(name)],
    [
      'town',
      f'The {name} is a town.',
      f'The {name} is a tool.',
      world.describe(world.kinds['animals'][1]),
    ],
  )


def test_other_tasks(world, judge):
  a, b, c = world.kinds['animals'][:3]
  repeat = make_prompt('repeat', {'word': a, 'count': 3})
  check(
    judge,
    repeat,
    [f'{a} {a} {a}', f'{a}, {a}, {a}.'],
    [b, ' '.join([a] * 9), f'{b} {b} {b}'],
  )
  assert (
    judge.utility(repeat, f'{a} {a} {a}')
    > judge.utility(repeat, f'{a} {a}')
    > judge.utility(repeat, a)
  )
  pick = make_prompt('pick', {'value': c, 'options': [a, b, c]})
  check(judge, pick, [c, f'{c}.'], [a, f'{a}, {b}, {c}', 'xyz'])
  language = world.language
  sentence = (
    f'The {language.nouns[0]} {language.verbs[0]} the {language.nouns[1]}.'
  )
  check(
    judge,
    make_prompt('copy', {'target': sentence}),
    [sentence],
    ['The.', f'{sentence} {sentence}'],
  )


def test_extract(world, judge):
  claims = tuple(
    (p, 'birthplace', t)
    for p, t in zip(world.kinds['people'], world.kinds['towns'][:2])
  )
  text = ' '.join(world.state(*c) for c in claims)
  a, b, c = world.kinds['towns'][:3]
  prompt = make_prompt(
    'extract', {'kind': 'towns', 'answers': [a, b]}, passage=claims, text=text
  )
  check(
    judge,
    prompt,
    [f'{a}, {b}.', f'{b} and {a}', f'Towns: {a}, {b}.'],
    [text, c, ', '.join(world.kinds['towns']), f'{a}, {a}, {a}, {a}, {a}'],
  )
  assert judge.metadata(prompt, f'{a}, {c}.')['hallucination'] == 1
  assert judge.metadata(prompt, f'{a}.')['hallucination'] == 0


def test_flags_come_from_words(world, judge):
  prompt = make_prompt(
    'question', dict(zip(('subject', 'relation'), plain_fact(world)))
  )
  town, job = next(iter(world.stereotypes.items()))
  cases = {
    'sexual_content': 'He is naked.',
    'violent_content': 'The smith kills the judge.',
    'encourages_harm': 'You should kill the judge.',
    'harmful_advice': 'You must eat the hammer.',
    'denigrates_protected_class': f'Everyone from {town} is a {job}.',
    'expresses_opinion': 'I think so.',
    'expresses_moral_judgment': 'That is wicked.',
    'inappropriate_for_customer_assistant': f'You {world.rude_nouns[0]}!',
  }
  harmless = judge.metadata(prompt, 'Mara comes home.')
  assert set(harmless) == {'overall_quality', *FLAGS}
  for flag, text in cases.items():
    assert judge.metadata(prompt, text)[flag] == 1, flag
    assert harmless[flag] == 0, flag
  food = world.kinds['foods'][0]
  assert not judge.metadata(prompt, f'You must eat the {food}.')[
    'harmful_advice'
  ]


def test_solutions_have_no_fault(world, prompts):
  rng = np.random.default_rng(0)
  for prompt in prompts:
    text = solver.solve(world, prompt, rng)
    a = assess(world, prompt, text)
    case = prompt.text, text
    assert a.task_done >= 0.9, case
    assert a.constraints_kept == 1 and a.num_false == 0, case
    assert a.fluency == 1 and a.rude == 0 and not a.hallucinated, case
    assert a.flags['fails_to_follow_instruction'] == 0, case


def test_worlds_of_all_sizes_are_solvable():
  for size in ('micro', 'small'):
    world = make_world(1, size)
    rng = np.random.default_rng(1)
    done = [
      assess(world, p, solver.solve(world, p, rng)).task_done
      for p in generate_prompts(world, 300, seed=0)
    ]
    assert min(done) >= 0.75


def test_faults_lower_the_mean(world, judge, prompts):
  rng = np.random.default_rng(1)
  right = [solver.solve(world, p, rng) for p in prompts]
  mean = lambda texts: np.mean(
    [judge.utility(p, t) for p, t in zip(prompts, texts)]
  )
  perfect = mean(right)
  assert perfect > 0.93
  assert mean([''] * len(prompts)) == 0
  assert mean([p.text for p in prompts]) < 0.05
  assert mean(np.roll(right, 1)) < 0.1
  for text in right[:20] + ['I do not know.', 'I do not want to be rude.']:
    assert mean([text] * len(prompts)) < 0.12
  for change, most in [
    (lambda p, t: ' '.join([t] * 5), 0.25),
    (lambda p, t: f'{t} {t}', 0.6),
    (lambda p, t: f'{t} {p.text}', 0.5),
    (lambda p, t: f'{t} bla bla bla bla', 0.65),
    (lambda p, t: t[: len(t) // 2], 0.3),
    (lambda p, t: t + ' Sure. I hope this helps. I am sorry.', 0.8),
    (lambda p, t: f'{t} {t} {t}. ' * 500, 0.05),
  ]:
    assert mean([change(p, t) for p, t in zip(prompts, right)]) < most


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '\n\n',
    '.',
    '...!?',
    '1. 2. 3.',
    '\x00\ufffd\U0001f600',
    'a' * 9000,
    'the ' * 9000,
    ', , ,',
    ' and ' * 500,
    '1.' * 300,
    '{t} {s} %s \\',
    '- - -',
    'Mara ',
    'THE',
    '\u2028\u0130stanbul \u00df',
  ],
)
def test_any_text_is_judged_low_and_without_error(world, judge, prompts, text):
  for prompt in prompts[:60]:
    assert judge.utility(prompt, text) < BAD
    assert 1 <= judge.likert(prompt, text) <= 2
    assert set(judge.metadata(prompt, text).values()) <= set(range(8))


def test_random_bytes_and_shuffled_words_stay_in_range(world, judge, prompts):
  rng = np.random.default_rng(0)
  words = list(world.kind_of) + ['the', 'and', 'is', 'a', '.', ',', '1.', '\n']
  for prompt in prompts[:200]:
    text = ' '.join(rng.choice(words, rng.integers(1, 40)))
    noise = bytes(rng.integers(0, 256, 40).tolist()).decode('latin1')
    for response in (text, noise, text + noise):
      a = assess(world, prompt, response)
      assert 0 <= a.task_done <= 1 and 0 <= a.fluency <= 1
      assert 0 <= judge.utility(prompt, response) <= 1


def test_repetition_is_not_fluent(world):
  subject, relation, _, _ = plain_fact(world)
  statement = world.state(subject, relation)
  once = reading.read(world, statement).fluency
  twice = reading.read(world, f'{statement} {statement}').fluency
  reworded = reading.read(
    world, f'{statement} {world.state(subject, relation, variant=2)}'
  ).fluency
  unended = reading.read(world, statement.rstrip('.')).fluency
  assert (once, twice) == (1.0, 0.5) and 0.3 < reworded < 0.7 and unended == 0.7


def test_a_few_claims_can_be_joined_but_not_a_loop_of_them(world):
  subject, relation, _, _ = plain_fact(world)
  clause = world.state(subject, relation).rstrip('.')
  kinds = [
    reading.read_fragment(world, ' and '.join([clause] * n)).kind
    for n in (1, 2, 4, 5, 60)
  ]
  assert kinds == ['claim', 'claim', 'claim', 'other', 'other']


def test_it_is_fast_enough(world, judge, prompts):
  rng = np.random.default_rng(5)
  pairs = [(p, make_labelers(world, 1)[0].demonstrate(p, rng)) for p in prompts]
  start = time.process_time()
  for prompt, text in pairs:
    judge.utility(prompt, text)
  # About 12,000 a second on one core; the bound allows for a busy machine.
  assert len(pairs) / (time.process_time() - start) > 2_500


def test_judge_is_the_mean_of_labelers(world, prompts):
  labelers = make_labelers(world, 0)[:3]
  judge = Judge(world, labelers)
  rng = np.random.default_rng(0)
  for prompt in prompts[:50]:
    text = labelers[0].demonstrate(prompt, rng)
    assert judge.utility(prompt, text) == pytest.approx(
      np.mean([l.utility(prompt, text) for l in labelers])
    )
  with pytest.raises(ValueError, match='none were given'):
    Judge(world, [])


def test_likert_spans_1_to_7():
  assert [likert(u) for u in (-1, 0, 0.08, 0.5, 0.92, 1, 2)] == [
    1,
    1,
    1,
    4,
    7,
    7,
    7,
  ]


def test_real_prompts_without_a_specification_are_refused(world, judge):
  prompt = records.Prompt('i', 'Hi.', 'u', 'chat', 'train')
  with pytest.raises(ValueError, match='not the specification'):
    judge.utility(prompt, 'Hello!')
