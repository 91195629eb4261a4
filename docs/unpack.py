#!/usr/bin/env python3
"""Reads a pgkeep repository of format version 1 without pgkeep.

Needs Python 3.8 and the `openssl` program, nothing else. docs/format.md explains each step;
src/repo/FORMAT.md is the format itself, and the section numbers below are its sections.
Everything is authenticated before it is used. Nothing in the repository is ever changed.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import struct
import subprocess
import sys
from datetime import datetime

FRAME = 65536
BATCH = 256  # frames of one call of openssl: 16 MiB
PAGE_FRAMES = 2048
KINDS = {"cluster": 1, "begin": 2, "backup": 3, "files": 4, "data": 5, "meta": 6, "hash": 7,
         "wal": 8, "history": 9, "label": 10, "partial": 11}
CLASSES = {5: b"data", 8: b"wal", 9: b"wal", 10: b"wal", 11: b"wal"}  # all others: meta


class Refused(Exception):
    """What is wrong, in one sentence that names the object."""


# ---------------------------------------------------------------- keys (sections 3 and 5)

def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def hkdf_expand(prk, info, length):
    out, block, count = b"", b"", 1
    while len(out) < length:
        block = hmac_sha256(prk, block + info + bytes([count]))
        out, count = out + block, count + 1
    return out[:length]


def hkdf(salt, key, info, length):
    return hkdf_expand(hmac_sha256(salt, key), info, length)


def aes_cbc_decrypt(key, iv, data):
    """Plain CBC without padding, by the openssl program."""
    if not data:
        return b""
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-nopad", "-K", key.hex(), "-iv", iv.hex()]
    try:
        ran = subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise Refused("the openssl program is not installed")
    if ran.returncode != 0 or len(ran.stdout) != len(data):
        raise Refused("openssl failed: " + ran.stderr.decode("utf-8", "replace").strip())
    return ran.stdout


def unpad(data, what):
    count = data[-1] if data else 0
    if not 1 <= count <= 16 or data[-count:] != bytes([count]) * count:
        raise Refused(f"{what}: the padding is wrong")
    return data[:-count]


def canonical(name, data, members):
    """Parses the JSON of a descriptor or slot; any other spelling of the same values is refused."""
    try:
        value = json.loads(data.decode("utf-8"))
        version, form = value["version"], value["format"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{name}: it is not what its name says")
    if form != members[0]:
        raise Refused(f"{name}: it is not a {members[0]} object")
    if version != 1:
        raise Refused(f"{name}: version {version} is not known to this script")
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"
    if list(value) != members[1] or text.encode("utf-8") != data:
        raise Refused(f"{name}: it is not in canonical form")
    for member in ("repository", "salt", "iv", "wrapped", "mac"):
        if not re.fullmatch("([0-9a-f]{2})*", value.get(member, "")):
            raise Refused(f"{name}: {member} is not hexadecimal")
    return value


def mac_input(value):
    lines = []
    for name in value:
        if name != "mac":
            text = json.dumps(value[name], ensure_ascii=False)
            text = "" if text == "null" else text
            lines.append(f"{name}={text[1:-1] if text.startswith(chr(34)) else text}\n")
    return "".join(lines).encode("utf-8")


DESCRIPTOR = ("pgkeep", ["format", "version", "repository", "created", "cipher",
                         "conditional_put", "key", "mac"])
SLOT = ("pgkeep key slot", ["format", "version", "repository", "slot", "created", "kind", "label",
                            "fingerprint", "cost", "keys", "salt", "iv", "wrapped", "mac"])


def slot_keys(slot, secret):
    """The 64 bytes that wrap a keyring."""
    salt = bytes.fromhex(slot["salt"])
    if slot["kind"] == "scrypt":
        if not 14 <= slot["cost"] <= 20:
            raise Refused(f"key/{slot['slot']}: the cost {slot['cost']} is not allowed")
        n = 1 << slot["cost"]
        return hashlib.scrypt(secret, salt=salt, n=n, r=8, p=1, maxmem=1100 * n, dklen=64)
    return hkdf(salt, secret, b"pgkeep/1 slot", 64)


def open_slot(slot, secret, repository):
    """The master keys of a slot, or nothing where the secret does not open it."""
    keys = slot_keys(slot, secret)
    if not hmac.compare_digest(hmac_sha256(keys[32:], mac_input(slot)).hex(), slot["mac"]):
        return {}
    wrapped = aes_cbc_decrypt(keys[:32], bytes.fromhex(slot["iv"]), bytes.fromhex(slot["wrapped"]))
    ring = unpad(wrapped, f"key/{slot['slot']}")
    if ring[:16] != repository:
        return {}
    if len(ring) != 17 + 52 * ring[16]:
        raise Refused(f"key/{slot['slot']}: it does not hold a keyring")
    found = {}
    for at in range(17, len(ring), 52):
        found[ring[at:at + 16]] = ring[at + 20:at + 52]
    return found


# ---------------------------------------------------------------- the repository

class Repository:
    def __init__(self, folder, kind, secret):
        self.folder = folder
        if not os.path.isfile(os.path.join(folder, "pgkeep.json")):
            raise Refused(f"there is no pgkeep repository in {folder}")
        with self.open("pgkeep.json") as file:
            descriptor = canonical("pgkeep.json", file.read(), DESCRIPTOR)
        self.id = bytes.fromhex(descriptor["repository"])
        if descriptor["cipher"] not in ("aes-256-cbc", "none"):
            raise Refused(f"pgkeep.json: the cipher {descriptor['cipher']} is not known")
        self.suite = 1 if descriptor["cipher"] == "aes-256-cbc" else 2
        if self.suite == 2:
            kind, secret = "clear", bytes(32)
        elif kind is None:
            raise Refused("the repository is encrypted: --key-file or --passphrase-file is needed")
        self.masters, seen = {}, []
        for name in self.list("key"):
            try:
                with self.open(name) as file:
                    slot = canonical(name, file.read(), SLOT)
                if name != "key/" + slot["slot"]:
                    raise Refused(f"{name}: it names itself {slot['slot']}")
                seen.append(f"{slot['slot']} ({slot['kind']}, {slot['label']!r})")
                if slot["kind"] == kind:
                    self.masters.update(open_slot(slot, secret, self.id))
            except (Refused, ValueError) as damage:
                seen.append(f"{name} (damaged: {damage})")
        if not self.masters:
            raise Refused("the secret opens no key slot of this repository; there are: "
                          + "; ".join(seen))
        first = next((master for key, master in self.masters.items()
                      if key.hex() == descriptor["key"]), None)
        if first is None:
            raise Refused("pgkeep.json: it names a master key that no slot holds")
        mac = hmac_sha256(self.root(first, b"meta", b"descriptor"), mac_input(descriptor)).hex()
        if not hmac.compare_digest(mac, descriptor["mac"]):
            raise Refused("pgkeep.json: the authentication code does not match")

    def open(self, name):
        try:
            return open(os.path.join(self.folder, name), "rb")
        except FileNotFoundError:
            raise Refused(f"{name}: there is no such object")

    def list(self, prefix):
        """Names of the objects directly below a prefix, sorted."""
        folder = os.path.join(self.folder, prefix)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(f"{prefix}/{name}" for name in names if not name.startswith("."))

    def places(self, cluster):
        """`c/<cluster>/<system>-<epoch>` of each history of each wanted cluster."""
        return [place for name in self.list("c") if cluster in (None, name[2:])
                for place in self.list(name)]

    def root(self, master, klass, use):
        return hkdf(self.id, master, b"pgkeep/1 root " + klass + b" " + use, 32)


class Sealed:
    """One sealed object, open at any frame (section 4)."""

    def __init__(self, repository, name, kind, record=None):
        self.name, self.suite = name, repository.suite
        self.file = repository.open(name)
        head = self.file.read(64)
        if len(head) < 64 or head[:6] != b"PGKEEP":
            raise Refused(f"{name}: it is not a pgkeep object")
        version, found, suite, scheme, log2, block, zero = struct.unpack("<HBBBBHH", head[6:16])
        if version != 1 or scheme != 1:
            raise Refused(f"{name}: version {version} or key scheme {scheme} is not known here")
        if (found, suite) != (kind, self.suite) or not 13 <= log2 <= 20 or block or zero:
            raise Refused(f"{name}: its header is not that of the object which belongs here")
        key, salt = head[16:32], head[32:]
        self.salt = salt
        if record and (record["salt"] != salt.hex() or record["key"] != key.hex()):
            raise Refused(f"{name}: it is not the object that the manifest names")
        master = repository.masters.get(key)
        if master is None:
            raise Refused(f"{name}: it is sealed with key {key.hex()}, which no opened slot holds")
        klass = CLASSES.get(kind, b"meta")
        info = b"pgkeep/1 object" + head + name.encode("utf-8")
        self.frame_size = 1 << log2
        self.enc = hkdf(salt, repository.root(master, klass, b"enc"), info, 32)
        self.mac = hkdf(salt, repository.root(master, klass, b"mac"), info, 32)

    def stored_frame(self, number):
        """The next frame of the file: (flags, raw length, IV, ciphertext), authentic."""
        def refuse(why):
            raise Refused(f"{self.name}: frame {number}: {why}")
        head = self.file.read(24)
        if len(head) < 24:
            refuse("the object ends before it")
        length, word = struct.unpack("<II", head[:8])
        raw, flags = word & 0xFFFFFF, word >> 24
        possible = length <= self.frame_size if self.suite == 2 else \
            16 <= length <= self.frame_size + 16 and length % 16 == 0
        if not possible or raw > self.frame_size or flags & ~3:
            refuse("its lengths or flags cannot be a frame's")
        body = self.file.read(length + 32)
        mac = hmac_sha256(self.mac, struct.pack("<Q", number) + head + body[:-32])
        if len(body) != length + 32 or not hmac.compare_digest(mac, body[-32:]):
            refuse("its authentication code does not match")
        return flags, raw, head[8:], body[:-32]

    def decrypt(self, frames):
        """Payloads of authentic frames by one call: CBC finds its feet again after one block, so
        the IVs are decrypted along with the rest and what comes out in their places is dropped."""
        if self.suite == 2:
            return [body for _, _, _, body in frames]
        clear = aes_cbc_decrypt(self.enc, bytes(16), b"".join(iv + body for _, _, iv, body in frames))
        payloads, at = [], 0
        for _, _, iv, body in frames:
            at += 16
            payloads.append(unpad(clear[at:at + len(body)], self.name))
            at += len(body)
        return payloads

    def contents(self, frames, first):
        for number, frame, payload in zip(range(first, first + len(frames)), frames,
                                          self.decrypt(frames)):
            flags, raw = frame[:2]
            content = payload if flags & 1 else lz4_block(payload, raw)
            if content is None or len(content) != raw:
                raise Refused(f"{self.name}: frame {number}: its content is not as long as it says")
            yield content

    def run(self, first, count, offset):
        """The contents of a run of frames that lies at an offset."""
        self.file.seek(offset)
        for begin in range(first, first + count, BATCH):
            batch = range(begin, min(begin + BATCH, first + count))
            yield from self.contents([self.stored_frame(number) for number in batch], begin)

    def whole(self):
        """The contents of all frames in order; the end is proven."""
        self.file.seek(64)
        number, last = 0, False
        while not last:
            frames = []
            while len(frames) < BATCH and not last:
                frames.append(self.stored_frame(number + len(frames)))
                last = bool(frames[-1][0] & 2)
            if last and self.file.read(1):
                raise Refused(f"{self.name}: bytes follow the last frame")
            yield from self.contents(frames, number)
            number += len(frames)

    def lines(self):
        for frame in self.whole():
            yield from (json.loads(line) for line in frame.split(b"\n") if line)


def lz4_block(data, size):
    """Decodes one LZ4 block; nothing when it is none."""
    out, at, end = bytearray(), 0, len(data)
    try:
        while True:
            token = data[at]
            at += 1
            count = token >> 4
            if count == 15:
                while data[at] == 255:
                    count, at = count + 255, at + 1
                count, at = count + data[at], at + 1
            if at + count > end:
                return None
            out += data[at:at + count]
            at += count
            if at == end:
                return bytes(out) if len(out) == size else None
            distance = data[at] | data[at + 1] << 8
            at += 2
            count = token & 15
            if count == 15:
                while data[at] == 255:
                    count, at = count + 255, at + 1
                count, at = count + data[at], at + 1
            count += 4
            begin = len(out) - distance
            if distance == 0 or begin < 0 or len(out) + count > size:
                return None
            if distance >= count:
                out += out[begin:begin + count]
            else:
                piece = bytes(out[begin:])
                out += (piece * (count // distance + 1))[:count]
    except IndexError:
        return None


# ---------------------------------------------------------------- backups (section 6)

class Backup:
    """A backup, with those on which it stands."""

    def __init__(self, repository, place, backup, salt=None):
        self.repository, self.place, self.id = repository, place, backup
        manifest = Sealed(repository, f"{place}/backup/{backup}", KINDS["backup"])
        if salt and manifest.salt.hex() != salt:
            raise Refused(f"{manifest.name}: it is not the manifest that was built on")
        lines = manifest.lines()
        self.summary = next(lines)
        if self.summary["state"] != "complete":
            raise Refused(f"backup {backup} was given up: {self.summary.get('why')}")
        self.objects, self.bases, self.reused, self.offsets = {}, [], {}, {}
        for line in lines:
            if "object" in line:
                self.objects[line["object"]["name"]] = line["object"]
            elif "base" in line:
                self.bases.append(line["base"])
            elif "reused" in line:
                self.reused.setdefault(line["reused"]["base"], {})[line["reused"]["name"]] = line["reused"]
        self.block = self.summary["server"]["block_size"]
        # Its own index among the bases of whatever stands on it.
        self.index = len(self.bases)
        self.others = {}

    def base(self, index):
        """What a layer's index means: a backup of the chain, or an attempt that died."""
        if index not in self.others:
            base = self.bases[index]
            if base.get("attempt"):
                other = Attempt(self, base["id"], self.reused_of(index))
            else:
                other = Backup(self.repository, self.place, base["id"], base["salt"])
                if [(b["id"], b["salt"]) for b in other.bases] != \
                        [(b["id"], b["salt"]) for b in self.bases[:index]]:
                    raise Refused(f"{base['id']} stands on others than {self.id} says")
            self.others[index] = other
        return self.others[index]

    def chain(self):
        """Itself, its parent, and so on to the full."""
        yield self
        for base in reversed(self.bases):
            if not base.get("attempt"):
                yield self.base(base["index"])

    def reused_of(self, index):
        objects = {}
        for backup in self.chain():
            objects.update(backup.reused.get(index, {}))
        return objects

    def object(self, inner):
        family, _, number = inner.partition("/")
        if inner not in self.objects:
            raise Refused(f"the manifest of {self.id} does not name {inner}")
        name = f"{self.place}/{family}/{self.id}" + (f"/{number}" if number else "")
        return Sealed(self.repository, name, KINDS[family], self.objects[inner])

    def own_rows(self):
        """Rows of the file table, continuations joined: those that differ from the parent's."""
        row = None
        for line in self.object("files").lines():
            path = bytes.fromhex(line["P"]) if "P" in line else line["p"].encode("utf-8")
            if "k" in line:
                if row is None or row["path"] != path:
                    raise Refused(f"the file table of {self.id} is out of order")
                row["at"] += line["at"]
                continue
            if row is not None:
                yield row
            row = dict(line, path=path, at=line.get("at", []))
        if row is not None:
            yield row

    def rows(self):
        """Rows of all the chain: of each path the newest, and none where that says that it is gone."""
        def seen_from_here(backup):
            for row in backup.own_rows():
                if backup is not self:
                    row["at"] = [layer + [backup.index] if len(layer) == 4 else layer
                                 for layer in row["at"]]
                yield row
        tables = [seen_from_here(backup) for backup in self.chain()]
        heads = [next(table, None) for table in tables]
        while any(heads):
            path = min(head["path"] for head in heads if head)
            newest = next(head for head in heads if head and head["path"] == path)
            heads = [next(table, None) if head and head["path"] == path else head
                     for head, table in zip(heads, tables)]
            if not newest.get("gone"):
                yield newest

    def frame_offsets(self, number):
        """Where each frame of a pack lies, from its meta object."""
        if number not in self.offsets:
            frames = self.object(f"meta/{number:06}").whole()
            head = next(frames)
            version, pages, count = struct.unpack("<IIQ", head[:16])
            if version != 1:
                raise Refused(f"meta/{number:06}: version {version} is not known to this script")
            offsets = []
            for _ in range(pages):
                page = next(frames)
                at = struct.unpack("<Q", page[:8])[0]
                for i in range(8, 8 + 3 * PAGE_FRAMES, 3):
                    offsets.append(at)
                    at += int.from_bytes(page[i:i + 3], "little")
            self.offsets[number] = offsets[:count]
        return self.offsets[number]

    def raw(self, number, begin, length):
        """Bytes of a pack's raw stream, frame by frame."""
        offsets, pack = self.frame_offsets(number), self.object(f"data/{number:06}")
        first, last = begin // FRAME, (begin + length - 1) // FRAME
        if last >= len(offsets):
            raise Refused(f"{pack.name}: a row points behind its end")
        skip = begin - first * FRAME
        for content in pack.run(first, last - first + 1, offsets[first]):
            piece = content[skip:skip + length]
            skip, length = 0, length - len(piece)
            yield piece
        if length:
            raise Refused(f"{pack.name}: it is shorter than the row that points into it")

    def content(self, row):
        """The content of a file, piece by piece."""
        size, block = int(row["s"]), 0
        for layer in row["at"]:
            if layer[0] != block:
                raise Refused(f"{shown(row['path'])}: nothing covers block {block}")
            block += layer[1]
            length = min(block * self.block, size) - layer[0] * self.block
            if len(layer) == 2:
                for at in range(0, length, FRAME):
                    yield bytes(min(FRAME, length - at))
                continue
            source = self.base(layer[4]) if len(layer) == 5 else self
            yield from source.raw(layer[2], layer[3] * self.block, length)
        if block != (size + self.block - 1) // self.block:
            raise Refused(f"{shown(row['path'])}: its layers do not cover it")


class Attempt(Backup):
    """What a backup that died had stored, as far as another uses it."""

    def __init__(self, user, attempt, objects):
        self.repository, self.place, self.id = user.repository, user.place, attempt
        self.objects, self.offsets, self.block = objects, {}, user.block


CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    CRC_TABLE.append(_byte)


def crc32c(crc, data):
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc


def shown(path):
    path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    return path.decode("utf-8", "backslashreplace")


def find_backup(repository, cluster, backup):
    places = [place for place in repository.places(cluster)
              if f"{place}/backup/{backup}" in repository.list(f"{place}/backup")]
    return Backup(repository, only(places, f"backup {backup}"), backup)


def only(places, what):
    if not places:
        raise Refused(f"there is no {what}")
    if len(places) > 1:
        raise Refused(f"there are several with {what}, in {', '.join(places)}: --cluster is needed")
    return places[0]


# ---------------------------------------------------------------- commands

def list_backups(repository, arguments):
    failed = False
    for place in repository.places(arguments.cluster):
        for name in repository.list(f"{place}/backup"):
            try:
                frames = Sealed(repository, name, KINDS["backup"]).whole()
                line = json.loads(next(frames))
                if line["state"] != "complete":
                    print(f"{line['id']}  given up: {line['why']}")
                    continue
                totals = line["totals"]
                print(f"{line['id']}  {line['type']}  finished {line['finished']}  "
                      f"WAL {line['wal_first']} to {line['wal_last']}  "
                      f"{totals['files']} files, {totals['bytes']} bytes  ({place[2:]})")
            except Refused as damage:
                failed = True
                print(damage, file=sys.stderr)
    return 1 if failed else 0


def list_files(repository, arguments):
    for row in find_backup(repository, arguments.cluster, arguments.backup).rows():
        target = bytes.fromhex(row["L"]) if "L" in row else row.get("l", "").encode("utf-8")
        arrow = f" -> {shown(target)}" if target else ""
        print(f"{row['t']} {row['m']:>4} {row['u']}:{row['g']} {int(row['s']):>12} {row['mt']}  "
              f"{shown(row['path'])}{arrow}")
    return 0


def write_whole(path, pieces):
    """Writes beside the place and renames: what is there is whole."""
    partial = f"{path}.partial-{os.getpid()}"
    try:
        with open(partial, "xb") as out:
            for piece in pieces:
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def checked(backup, row):
    """A file's content; at its end its checksum is compared."""
    crc = 0xFFFFFFFF
    for piece in backup.content(row):
        crc = crc32c(crc, piece)
        yield piece
    if "c" in row and f"{crc ^ 0xFFFFFFFF:08x}" != row["c"]:
        raise Refused(f"{shown(row['path'])}: its checksum is not the one in its row")


def unpack_file(repository, arguments):
    backup = find_backup(repository, arguments.cluster, arguments.backup)
    wanted = os.fsencode(arguments.path)
    row = next((row for row in backup.rows() if row["path"] == wanted), None)
    if row is None:
        raise Refused(f"backup {backup.id} has no file {shown(wanted)}")
    if row["t"] != "f":
        raise Refused(f"{shown(wanted)} is a {'directory' if row['t'] == 'd' else 'link'}")

    write_whole(arguments.output, checked(backup, row))
    modified = datetime.fromisoformat(row["mt"].split(".")[0].rstrip("Z") + "+00:00").timestamp()
    os.utime(arguments.output, (modified, modified))
    return 0


def unpack_config(repository, arguments):
    """Configuration files outside the data directory, below a folder of their own."""
    backup = find_backup(repository, arguments.cluster, arguments.backup)
    os.makedirs(arguments.output, mode=0o700)
    for row in backup.rows():
        parts = os.fsdecode(row["path"]).split("/")
        if parts[0] or len(parts) == 1 or row["t"] != "f":
            continue
        if any(part in ("", ".", "..") for part in parts[1:]):
            raise Refused(f"{shown(row['path'])} leads out of its folder")
        path = os.path.join(arguments.output, *parts[1:])
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_whole(path, checked(backup, row))
        os.chmod(path, int(row["m"], 8) & 0o777)
    return 0


def unpack_wal(repository, arguments):
    name = arguments.segment
    if name.endswith(".history"):
        inner, kind = f"history/{name[:-8]}", KINDS["history"]
    elif name.endswith(".backup"):
        inner, kind = f"label/{name}", KINDS["label"]
    else:
        inner, kind = f"wal/{name[:8]}/{name[8:16]}/{name}", KINDS["wal"]
    parent = os.path.dirname(inner)
    places = [place for place in repository.places(arguments.cluster)
              if f"{place}/{inner}" in repository.list(f"{place}/{parent}")]
    frames = Sealed(repository, f"{only(places, f'WAL file {name}')}/{inner}", kind).whole()
    facts = json.loads(next(frames))

    def checked():
        left = int(facts["size"])
        for piece in frames:
            left -= len(piece)
            yield piece
        if left:
            raise Refused(f"{name}: its content is not as long as its facts say")

    write_whole(arguments.output, checked())
    return 0


def secret_of(arguments):
    if arguments.key_file:
        with open(arguments.key_file, encoding="ascii", errors="replace") as file:
            prefix, _, digits = file.read().rstrip("\n").partition(" ")
        if prefix != "pgkeep-key-1" or len(digits) != 64 or digits.strip("0123456789abcdef"):
            raise Refused(f"{arguments.key_file} is not a pgkeep key file")
        return "key-file", bytes.fromhex(digits)
    if arguments.passphrase_file:
        with open(arguments.passphrase_file, "rb") as file:
            text = file.read()
        return "scrypt", text[:-1] if text.endswith(b"\n") else text
    return None, None


def parse():
    parser = argparse.ArgumentParser(description="Reads a pgkeep repository without pgkeep.")
    parser.add_argument("repository", help="the repository's folder, or a copy of the bucket")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--key-file")
    secret.add_argument("--passphrase-file")
    parser.add_argument("--cluster", help="needed where several clusters have the same names")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list-backups").set_defaults(run=list_backups)
    listing = commands.add_parser("list", help="the files of a backup")
    listing.add_argument("backup")
    listing.set_defaults(run=list_files)
    one = commands.add_parser("file", help="unpacks one file of a backup")
    one.add_argument("backup")
    one.add_argument("path", help="relative to the data directory")
    one.add_argument("-o", "--output", required=True)
    one.set_defaults(run=unpack_file)
    config = commands.add_parser("config", help="unpacks files outside the data directory")
    config.add_argument("backup")
    config.add_argument("-o", "--output", required=True, help="a folder that is not there yet")
    config.set_defaults(run=unpack_config)
    wal = commands.add_parser("wal", help="unpacks a WAL segment, .history or .backup file")
    wal.add_argument("segment")
    wal.add_argument("-o", "--output", required=True)
    wal.set_defaults(run=unpack_wal)
    return parser.parse_args()


def main():
    arguments = parse()
    try:
        kind, secret = secret_of(arguments)
        return arguments.run(Repository(arguments.repository, kind, secret), arguments)
    except (Refused, OSError, ValueError) as error:
        print(f"unpack.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
