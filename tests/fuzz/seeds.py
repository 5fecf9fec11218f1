#!/usr/bin/env python3
"""Makes seeds for fuzz targets: for those that read what clients send, from the dialogues of tests/transcripts; for those that take choices,
choices of chance.

    tests/fuzz/seeds.py            writes tests/fuzz/seeds/TARGET/*

What a client of a transcript sends is one seed, behind the bytes that choose options (see the header of each target's body). Seeds
are named by what is in them, so the same dialogue gives the same file again. Long ones are left out: the fuzzer makes their like. Many reach
nothing that others do not: `tests/fuzz.sh seeds TARGET` leaves those that do.
"""

import hashlib
import random
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TRANSCRIPTS = ROOT.parent / "transcripts"
SIZE_MAX = 700
ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([rnt0\\]))")
ESCAPED = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
REPEAT = re.compile(rb"\{([^{}]*)\*(\d+)\}")


def plain(text):
    """The bytes that a line of a transcript stands for."""
    text = REPEAT.sub(lambda found: found[1] * min(int(found[2]), SIZE_MAX), text)
    return ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else ESCAPED[found[2]], text)


def sessions(path):
    """What each connection of a transcript sends, by its name, and the options of the server."""
    sent, options, connection = {}, b"", b"A"
    for line in path.read_bytes().splitlines():
        mark, rest = line[:1], line[2:]
        if mark == b"=":
            options = rest
        elif mark == b"@":
            connection = rest.strip()
        elif mark == b">":
            sent[connection] = sent.get(connection, b"") + plain(rest)
    return sent, options


def main():
    for path in sorted(TRANSCRIPTS.glob("*.txt")):
        sent, options = sessions(path)
        separator = b"--reader-separator" in options
        for connection, requests in sent.items():
            if not 0 < len(requests) <= SIZE_MAX:
                continue
            if connection.startswith(b"kestrel:"):
                keep("kestrel", bytes([2 + 8]) + requests)
                keep("framing", bytes([128 + 8 + 1, 3, 5, 70, 3]) + requests)
            else:
                keep("text", bytes([4 + separator]) + requests)
                keep("framing", bytes([8 + 4 * separator + 1, 3, 5, 70, 3]) + requests)
                keep("udp", bytes([1 + 2 * separator, 0]) + b"\x12\x34\0\0\0\x01\0\0" + requests)
    chance = random.Random(1)
    for model in range(6):
        keep("operations", bytes([model % 3]) + chance.randbytes(400))
    for kind in range(6):
        keep("journal", bytes([kind]) + chance.randbytes(300))
        keep("lmdb", chance.randbytes(200))
        keep("spool", bytes([kind]) + chance.randbytes(100))
    keep("config", (ROOT.parent.parent / "packaging/ringq.toml").read_bytes()[:2000])
    keep("config", b"threads = 2\n[queue]\nmax_age = '30d'\n[queues.'orders-*']\nwhen_full = 'drop_oldest'\nmax_messages = 5\n")
    keep("options", b"/open/t=5/ttr=7/group=g")
    keep("options", b"#r/close/open")
    keep("settings", b"max_messages=1 when_full=drop_oldest\nmax_age=30d\nexpire_to=late\ntrace=on\nfrom_the_future=1")
    numbers = bytes.fromhex("0100000000000000")
    keep("mutation", bytes([3]) + numbers * 2 + b"\x01q" + bytes([1]) + numbers * 3 + bytes(4) + b"\x02\0\0\0" + bytes(4) + b"hi")
    keep("store", bytes([16 + 1]) + bytes(7) + b"\x05" + bytes(7) + b"\x0a" + bytes(4) + bytes.fromhex("01 02000000 00000000 01000000 01000000 02000000") + b"ab")


def keep(target, seed):
    directory = ROOT / "seeds" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.sha1(seed).hexdigest()[:12]).write_bytes(seed)


if __name__ == "__main__":
    main()
