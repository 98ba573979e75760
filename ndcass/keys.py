"""API keys: how they are made and what of them is kept.

A key is 40 hexadecimal digits, shown to its owner once. Stores keep the digest only: a key is 160
random bits, so a slow password hash would cost every request time and an attacker nothing.
"""

import hashlib
import secrets

KEY_BYTES = 20


def new_key() -> str:
    """A key that nobody had before: 40 hexadecimal digits."""
    return secrets.token_hex(KEY_BYTES)


def hash_key(key: str) -> bytes:
    """What a store keeps of a key: its SHA-256 digest."""
    return hashlib.sha256(key.encode()).digest()
