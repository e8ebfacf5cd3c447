"""Patterns of personal data: what they find and what they leave alone."""

import pytest

from instructrl.data.curate import personal


@pytest.mark.parametrize(
  'kind, text',
  [
    ('email address', 'write to jane.doe+x@mail.example.org.'),
    ('email address', 'JANE@EXAMPLE.COM'),
    ('email address', '<j@a-b.c.de>'),
    ('email address', 'a@b@c_d.org1'),
    ('email address', 'a.' * 100_000 + '@' + 'a.' * 100_000 + 'org'),
    ('phone number', 'call (555) 123-4567 now'),
    ('phone number', '555-123-4567'),
    ('phone number', '555.123.4567.'),
    ('phone number', 'T: +44 20 7946 0958'),
    ('phone number', '+1 (202) 456-1111'),
    ('phone number', '+491711234567'),
    ('card number', 'my card is 4111 1111 1111 1111, thanks'),
    ('card number', '5500-0000-0000-0004'),
    ('card number', '378282246310005'),
  ],
)
def test_found(kind, text):
  assert personal.personal_data(text) == kind


@pytest.mark.parametrize(
  'text',
  [
    '',
    'user@host',
    '@handle and a @ b',
    'a@.org',
    'a@b..org',
    'a@b.c',
    '@b.org',
    'a@b.1org',
    '!@b.org',
    '3 + 4 = 7',
    '100 200 3000',
    '2023-01-15',
    '1,234,567',
    '192.168.100.200',
    'ISBN 978-3-16-148410-0',
    '4111 1111 1111 1112',  # the check digit is wrong
    '0000 0000 0000 0000',
    '3.14159265358979323',
    'x = +12',
    'page 555-1234',
    '1234-555-123-4567',
    '12345678901234567890123',
    # Read at once, unless the time grows as the square of the length.
    'a' * 200_000,
    'a@' + 'a.' * 100_000,
    'a@' + 'a' * 200_000,
    '@a.' * 70_000,
    'a@a.' * 50_000,
    '1' * 200_000,
    '1-' * 100_000,
    '+1 ' * 70_000,
    '(555) ' * 30_000,
  ],
)
def test_left_alone(text):
  assert personal.personal_data(text) == ''
