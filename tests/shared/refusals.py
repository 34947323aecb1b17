"""What a refusal is checked for."""

from contextlib import contextmanager

import pytest

from wiper_cli.verdict import Problem


@contextmanager
def refused(words, code):
    """Within it a :class:`Problem` is raised whose sentence matches ``words`` and whose exit code is ``code``."""
    with pytest.raises(Problem, match=words) as caught:
        yield
    assert caught.value.exit_code == code
