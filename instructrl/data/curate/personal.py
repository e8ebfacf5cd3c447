"""Patterns of personal data in text.

The paper removes prompts with personally identifiable information from its
training data (Ouyang et al. 2022, section 3.2); it does not say how.
"""

import re

from instructrl.data.curate import parts
from instructrl.data.records import Record

# One character before the @ is enough to know that there is an address; more
# would take a time that grows with the square of the length.
_EMAIL = re.compile(r'[\w.+-]@[\w-]+(?:\.[\w-]+)*\.[a-z]{2}', re.IGNORECASE)
# With a country's code, or as in (555) 123-4567 and 555-123-4567.
_PHONE = re.compile(
  r'(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,4}(?!\w)'
  r'|(?<![\w-])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-])'
)
_CARD = re.compile(r'(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])')


def _is_card(number: str) -> bool:
  """Returns whether the check digit is right (ISO/IEC 7812-1, Luhn)."""
  digits = [int(c) for c in reversed(number) if c.isdigit()]
  doubled = [sum(divmod(2 * d, 10)) for d in digits[1::2]]
  return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def personal_data(text: str) -> str:
  """Returns the kind of personal data a text seems to have; '' if none.

  Finds an 'email address', 'phone number' or 'card number' (13 to 19 digits
  with a right check digit). Names and postal addresses are not found.
  """
  if '@' in text and _EMAIL.search(text):
    return 'email address'
  if _PHONE.search(text):
    return 'phone number'
  if any(_is_card(found[0]) for found in _CARD.finditer(text)):
    return 'card number'
  return ''


def of_record(record: Record) -> str:
  """Returns the first kind that a text of the record has; '' if none."""
  return next(filter(None, map(personal_data, parts.texts_of(record))), '')


def reason(record: Record) -> str:
  """Returns why a record with personal data is dropped; '' without any."""
  kind = of_record(record)
  return f'pii: {kind}' if kind else ''
