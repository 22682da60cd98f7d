"""The fixture ``fake_keyosk``; ``FakeKeyosk`` needs an issuer and an audience from your fixtures.

Put ``pytest_plugins = ["keyosk_client.pytest_plugin"]`` into ``conftest.py``, and define the
fixtures ``keyosk_issuer`` and ``keyosk_audience`` with the values that your service has.
"""

from collections.abc import Iterator

import pytest

from keyosk_client.testing import FakeKeyosk


@pytest.fixture
def fake_keyosk(keyosk_issuer: str, keyosk_audience: str) -> Iterator[FakeKeyosk]:
    """Stand in for Keyosk during one test."""
    with FakeKeyosk(keyosk_issuer, keyosk_audience) as fake:
        yield fake
