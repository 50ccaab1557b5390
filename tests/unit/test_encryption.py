from __future__ import annotations

import base64
import unittest

from zaqar_notify.encryption import CannotDecrypt, Keyring
from zaqar_notify.errors import CannotStart, StorageUnavailable

OLD = base64.b64encode(b"o" * 32).decode()
NEW = base64.b64encode(b"n" * 32).decode()


class KeyringTest(unittest.TestCase):
    def test_what_is_sealed_opens(self) -> None:
        ring = Keyring([OLD])
        for plain in (b"", b"x", bytes(range(256)) * 10):
            token = ring.seal(plain, b"here")
            self.assertEqual(plain, ring.open(token, b"here"))
            self.assertNotEqual(token, ring.seal(plain, b"here"))
        self.assertNotIn(b"hidden text", ring.seal(b"hidden text", b"here"))

    def test_the_first_key_encrypts_and_all_decrypt(self) -> None:
        token = Keyring([OLD]).seal(b"x", b"")
        rotating = Keyring([NEW, OLD])
        self.assertEqual(b"x", rotating.open(token, b""))
        fresh = rotating.seal(b"y", b"")
        self.assertEqual(b"y", Keyring([NEW]).open(fresh, b""))
        with self.assertRaisesRegex(CannotDecrypt, r"not among \[encryption\] keys"):
            Keyring([OLD]).open(fresh, b"")

    def test_nothing_that_was_changed_opens(self) -> None:
        ring = Keyring([OLD])
        token = ring.seal(b"secret", b"subscription:1")
        with self.assertRaises(CannotDecrypt):
            ring.open(token, b"subscription:2")
        for position in range(len(token)):
            changed = token[:position] + bytes([token[position] ^ 1]) + token[position + 1 :]
            with self.assertRaises(CannotDecrypt, msg=str(position)):
                ring.open(changed, b"subscription:1")
        for length in range(len(token)):
            with self.assertRaises(CannotDecrypt, msg=str(length)):
                ring.open(token[:length], b"subscription:1")

    def test_a_lost_key_does_not_make_the_storage_unavailable(self) -> None:
        self.assertFalse(issubclass(CannotDecrypt, StorageUnavailable))

    def test_bad_keys_cannot_start_and_are_not_shown(self) -> None:
        short = base64.b64encode(b"short").decode()
        for keys, said in (
            ([], r"is not set\. Where 'serve' has made keys, name its data directory .--data."),
            ([OLD, "not base64!"], "key 2 is not base64"),
            ([short], "has 5 bytes, not 32"),
            ([""], "has 0 bytes"),
            (["ä" * 44], "not base64"),
        ):
            with self.subTest(said), self.assertRaisesRegex(CannotStart, said) as caught:
                Keyring(keys)
            for key in keys:
                if key:
                    self.assertNotIn(key, str(caught.exception))
