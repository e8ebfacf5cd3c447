"""Word pools and sentence templates from which worlds are drawn.

Names are single words that take the article "a", so templates never choose
between "a" and "an". A word belongs to one kind.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
  """A typed relation, and all templates that express it.

  Attributes:
    name: unique in the world, e.g. 'birthplace'.
    subject_kind: key of `World.kinds`.
    value_kind: key of `World.kinds`.
    statements: templates with `{s}` and `{v}`; the first is canonical.
    questions: templates with `{s}`.
  """

  name: str
  subject_kind: str
  value_kind: str
  statements: tuple[str, ...]
  questions: tuple[str, ...]


SUBJECT_KINDS = ('people', 'towns', 'animals', 'foods', 'tools')

# Kinds have plural names ("Towns: Oakton, Elmford."). Questions use the
# singular ("Which town ...?").
SINGULAR = {
  'people': 'person',
  'towns': 'town',
  'animals': 'animal',
  'foods': 'food',
  'tools': 'tool',
  'jobs': 'job',
  'colours': 'colour',
  'materials': 'material',
  'regions': 'region',
  'habitats': 'place',
  'tastes': 'taste',
  'vessels': 'dish',
  'numbers': 'number',
  'weathers': 'weather',
  'sounds': 'sound',
  'seasons': 'season',
  'rooms': 'room',
}

_TOWN_STARTS = (
  'Oak Elm Ash Fern Mill Stone Marsh Lake Hill Wolf Swan Thorn Bram Clay Dun '
  'Kings'
).split()
_TOWN_ENDS = ('ton', 'ford', 'dale', 'wick', 'ham', 'field', 'port', 'brook')

POOLS = {
  'people': tuple(
    """
        Mara Tomas Lena Boris Clara Felix Greta Hugo Irma Jonas Karin Lukas
        Marta Nils Olga Peter Rosa Simon Tilda Viktor Wanda Anton Berta Carl
        Dora Emil Frida Georg Hanna Ivan Julia Konrad Laura Martin Nora Oskar
        Paula Rolf Sara Theo Vera Walter Agnes Bruno Celia David Edith Franz
        Gina Harold Ida Jakob Klara Leo Mona Norbert Petra Ralf Stella Tobias
        Ursula Vincent Zora Adam Bella Casper Diana Erik Flora Gustav Helga
        Isak Jana Kurt Lydia Milo Nina Otto Pia Robert Sofia Tina Ulrich Viola
        Willem Alma Benno Cora Dennis Elsa Fritz Gerda Henrik Iris Joel Kira
        Lars Maja Niklas Oda Pavel Rita Sven Thea Uma Valter""".split()
  ),
  'towns': tuple(a + b for a in _TOWN_STARTS for b in _TOWN_ENDS),
  'animals': tuple(
    """
        fox wolf bear deer hare goat horse cow sheep pig dog cat mouse rat
        rabbit badger beaver camel lion tiger monkey zebra panda seal whale
        shark trout salmon crab frog toad snake lizard turtle swan duck goose
        hen hawk raven crow robin sparrow pigeon heron stork bat mole bee wasp
        spider beetle moth snail worm weasel moose bison llama donkey mule
        parrot""".split()
  ),
  'foods': tuple(
    """
        bread honey cheese rice soup butter porridge jam cake stew pudding
        salad pasta pie milk tea juice cider cocoa cream yoghurt pickle bacon
        ham toast syrup sauce gravy broth jelly fudge toffee custard curry
        mustard pepper garlic cabbage pumpkin spinach barley
        wheat""".split()
  ),
  'tools': tuple(
    """
        hammer saw drill knife shovel rake ladder rope needle brush bucket
        chisel pliers wrench spade hoe sickle scythe broom mop sponge whisk
        ladle spoon fork kettle pan hook chain lever pulley wheel cart lamp
        candle mirror ruler pencil pen tongs plough""".split()
  ),
  'jobs': tuple(
    """
        baker smith farmer teacher doctor sailor painter judge hunter miller
        tailor cook guard singer weaver carpenter potter
        nurse""".split()
  ),
  'colours': tuple(
    'red blue green yellow black white brown grey pink purple'.split()
  ),
  'materials': tuple(
    """
        iron wood stone copper glass bone leather clay silver
        bronze""".split()
  ),
  'regions': ('north', 'south', 'east', 'west', 'middle'),
  'habitats': tuple(
    """
        forest river meadow desert cave swamp valley mountain jungle
        canyon""".split()
  ),
  'tastes': ('sweet', 'sour', 'salty', 'bitter', 'spicy', 'mild'),
  'vessels': ('bowl', 'cup', 'pot', 'plate', 'jar', 'basket', 'box', 'bag'),
  'numbers': ('two', 'three', 'four', 'five', 'six', 'seven', 'nine', 'ten'),
  'weathers': ('wet', 'dry', 'windy', 'foggy', 'stormy', 'sunny'),
  'sounds': tuple('hiss growl squeak howl bark chirp hum grunt'.split()),
  'seasons': ('spring', 'summer', 'autumn', 'winter'),
  'rooms': tuple(
    'kitchen cellar barn workshop attic garden hall stable'.split()
  ),
}

# Verbs in the third person singular, which the second language translates.
VERBS = tuple(
  """
    sees finds follows helps meets calls thanks watches teaches greets chases
    visits carries paints""".split()
)
ADJECTIVES = tuple(
  """
    old young small big happy tired brave quiet strong clever hungry
    lucky""".split()
)

RUDE_NOUNS = tuple('fool dolt clod dunce twit lout nitwit dimwit pest'.split())
RUDE_ADJECTIVES = ('stupid', 'rotten')

RELATIONS = (
  Relation(
    'birthplace',
    'people',
    'towns',
    (
      '{s} was born in {v}.',
      'The birthplace of {s} is {v}.',
      '{s} comes from the town of {v}.',
    ),
    (
      'Where was {s} born?',
      'What is the birthplace of {s}?',
      'In which town was {s} born?',
    ),
  ),
  Relation(
    'job',
    'people',
    'jobs',
    (
      '{s} works as a {v}.',
      'The job of {s} is {v}.',
      '{s} has the job of {v}.',
    ),
    (
      'What is the job of {s}?',
      'What does {s} work as?',
      'Which job does {s} have?',
    ),
  ),
  Relation(
    'favourite',
    'people',
    'foods',
    (
      '{s} likes {v} best.',
      'The favourite food of {s} is {v}.',
      '{s} eats {v} every day.',
    ),
    (
      'What food does {s} like best?',
      'What is the favourite food of {s}?',
      'What does {s} eat every day?',
    ),
  ),
  Relation(
    'pet',
    'people',
    'animals',
    (
      '{s} has a pet {v}.',
      'The pet of {s} is a {v}.',
      '{s} keeps a {v} at home.',
    ),
    (
      'What pet does {s} have?',
      'What is the pet of {s}?',
      'Which animal does {s} keep at home?',
    ),
  ),
  Relation(
    'region',
    'towns',
    'regions',
    (
      '{s} lies in the {v}.',
      'The town of {s} is in the {v}.',
      'You find {s} in the {v} of the land.',
    ),
    (
      'Where does {s} lie?',
      'In which part of the land is {s}?',
      'Where do you find {s}?',
    ),
  ),
  Relation(
    'flag',
    'towns',
    'colours',
    (
      'The flag of {s} is {v}.',
      '{s} has a {v} flag.',
      'A {v} flag flies over {s}.',
    ),
    (
      'What colour is the flag of {s}?',
      'Which flag flies over {s}?',
      'Which colour has the flag of {s}?',
    ),
  ),
  Relation(
    'famous',
    'towns',
    'foods',
    (
      '{s} is famous for {v}.',
      'The town of {s} is known for {v}.',
      'People visit {s} for the {v}.',
    ),
    (
      'What is {s} famous for?',
      'What is the town of {s} known for?',
      'What do people visit {s} for?',
    ),
  ),
  Relation(
    'weather',
    'towns',
    'weathers',
    (
      'The weather in {s} is {v}.',
      '{s} is a {v} town.',
      'Most days in {s} are {v}.',
    ),
    (
      'How is the weather in {s}?',
      'How are most days in {s}?',
      'Which weather has {s}?',
    ),
  ),
  Relation(
    'habitat',
    'animals',
    'habitats',
    (
      'The {s} lives in the {v}.',
      'The home of the {s} is the {v}.',
      'You can see the {s} in the {v}.',
    ),
    (
      'Where does the {s} live?',
      'What is the home of the {s}?',
      'Where can you see the {s}?',
    ),
  ),
  Relation(
    'diet',
    'animals',
    'foods',
    (
      'The {s} eats {v}.',
      'The food of the {s} is {v}.',
      'The {s} feeds on {v}.',
    ),
    (
      'What does the {s} eat?',
      'What is the food of the {s}?',
      'Which food does the {s} eat?',
    ),
  ),
  Relation(
    'coat',
    'animals',
    'colours',
    (
      'The {s} is {v}.',
      'The colour of the {s} is {v}.',
      'The {s} has a {v} coat.',
    ),
    (
      'What colour is the {s}?',
      'What is the colour of the {s}?',
      'Which coat does the {s} have?',
    ),
  ),
  Relation(
    'cry',
    'animals',
    'sounds',
    (
      'The cry of the {s} is a {v}.',
      'The {s} makes a {v}.',
      'You know the {s} by its {v}.',
    ),
    (
      'What is the cry of the {s}?',
      'What sound does the {s} make?',
      'How do you know the {s}?',
    ),
  ),
  Relation(
    'taste',
    'foods',
    'tastes',
    (
      'The {s} tastes {v}.',
      'The taste of the {s} is {v}.',
      'Most people find the {s} {v}.',
    ),
    (
      'How does the {s} taste?',
      'What is the taste of the {s}?',
      'How do most people find the {s}?',
    ),
  ),
  Relation(
    'origin',
    'foods',
    'towns',
    (
      'The {s} comes from {v}.',
      'The best {s} is made in {v}.',
      'The town of {v} makes the {s}.',
    ),
    (
      'Where does the {s} come from?',
      'Which town makes the {s}?',
      'Where is the best {s} made?',
    ),
  ),
  Relation(
    'dish',
    'foods',
    'vessels',
    (
      'The {s} is served in a {v}.',
      'People eat the {s} from a {v}.',
      'The dish for the {s} is a {v}.',
    ),
    (
      'What is the {s} served in?',
      'What is the dish for the {s}?',
      'What do people eat the {s} from?',
    ),
  ),
  Relation(
    'season',
    'foods',
    'seasons',
    (
      'The {s} is made in {v}.',
      'The season of the {s} is {v}.',
      'People eat the {s} in {v}.',
    ),
    (
      'When do people eat the {s}?',
      'What is the season of the {s}?',
      'When is the {s} made?',
    ),
  ),
  Relation(
    'material',
    'tools',
    'materials',
    (
      'The {s} is made of {v}.',
      'People make the {s} from {v}.',
      'The material of the {s} is {v}.',
    ),
    (
      'What is the {s} made of?',
      'What is the material of the {s}?',
      'What do people make the {s} from?',
    ),
  ),
  Relation(
    'user',
    'tools',
    'jobs',
    (
      'The {s} is used by the {v}.',
      'The {v} uses the {s}.',
      'The {v} needs the {s}.',
    ),
    ('Who uses the {s}?', 'Who needs the {s}?', 'By whom is the {s} used?'),
  ),
  Relation(
    'price',
    'tools',
    'numbers',
    (
      'The {s} costs {v} coins.',
      'The price of the {s} is {v} coins.',
      'You pay {v} coins for the {s}.',
    ),
    (
      'How many coins does the {s} cost?',
      'What is the price of the {s}?',
      'How many coins do you pay for the {s}?',
    ),
  ),
  Relation(
    'room',
    'tools',
    'rooms',
    (
      'The {s} is kept in the {v}.',
      'The {s} belongs in the {v}.',
      'You look for the {s} in the {v}.',
    ),
    (
      'Where is the {s} kept?',
      'Where do you look for the {s}?',
      'Where does the {s} belong?',
    ),
  ),
)
