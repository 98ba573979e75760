import hashlib
import re

from ndcass.keys import hash_key, new_key


def test_key_is_forty_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{40}", new_key())


def test_no_key_comes_twice() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000


def test_digest_is_sha256_of_the_text() -> None:
    assert hash_key("abc") == hashlib.sha256(b"abc").digest()
