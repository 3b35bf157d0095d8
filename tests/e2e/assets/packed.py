#!/usr/bin/env python3
"""What the origin has.

  packed.py FOLDER   makes there files; 'tree', a folder of every kind of thing; archives of it, by several programs; 'evil',
                     archives that are none; 'it.git', a repository of the tree
"""

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile

# How far unpacked an archive may be, at the least: 64 MiB.
BOMB_BYTES = 80 << 20


def run(*words, **more):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **more).stdout.strip()


def write(path, content, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def make_folder(folder):
    """Files that are small, large, empty and executable, a twin, links, an empty directory, and names of all sorts."""
    write(f"{folder}/run.sh", b"#!/bin/sh\necho run\n", 0o755)
    write(f"{folder}/words.txt", b"words\n")
    write(f"{folder}/nothing", b"")
    write(f"{folder}/large.bin", os.urandom(1_500_000))
    write(f"{folder}/caf\u00e9/\u6f22\u5b57 and a space", b"names\n")
    write(f"{folder}/{'deep/' * 20}{'long' * 20}", b"a name of more than a hundred bytes\n")
    os.mkdir(f"{folder}/empty")
    os.symlink("words.txt", f"{folder}/link")
    os.symlink("../words.txt", f"{folder}/deep/up")
    os.link(f"{folder}/words.txt", f"{folder}/twin.txt")


def make_archives(folder, to):
    """The folder, packed by every program that there is."""
    with tarfile.open(f"{to}/python.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder, ".")
    with tarfile.open(f"{to}/python.tar.xz", "w:xz", format=tarfile.GNU_FORMAT, preset=0) as archive:
        for name in sorted(os.listdir(folder)):
            archive.add(f"{folder}/{name}", name)
    run("tar", "-C", folder, "--format=gnu", "-czf", f"{to}/gnu.tar.gz", ".")
    run("tar", "-C", folder, "--format=posix", "--zstd", "-cf", f"{to}/gnu.tar.zst", ".")
    run("zip", "-q", "-r", "-y", f"{to}/info.zip", ".", cwd=folder, env={**os.environ, "LC_ALL": "C.UTF-8"})
    with zipfile.ZipFile(f"{to}/python.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, folders, files in os.walk(folder):
            for name in folders + files:
                zip_one(archive, os.path.join(path, name), os.path.relpath(os.path.join(path, name), folder))
    # As releases are packed: below a folder of its own.
    run("tar", "-C", folder, "--transform=s,^\\.,release-1.0,S", "-czf", f"{to}/release.tar.gz", ".")


def zip_one(archive, path, name):
    if os.path.islink(path):
        link = zipfile.ZipInfo(name)
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, os.readlink(path))
    else:
        archive.write(path, name)


def entry(name, kind=tarfile.REGTYPE, target="", content=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def make_evil(to):
    """Archives of every evil kind."""
    file, directory = entry("a", content=b"a"), entry("d", tarfile.DIRTYPE)
    tars = {
        "goes-up": [entry("../a", content=b"a")],
        "absolute": [entry("/tmp/a", content=b"a")],
        "link-leads-out": [directory, entry("d/out", tarfile.SYMTYPE, "../../etc")],
        "link-is-absolute": [entry("out", tarfile.SYMTYPE, "/etc/passwd")],
        "lies-under-a-link": [directory, entry("l", tarfile.SYMTYPE, "d"), entry("l/a", content=b"a")],
        "hard-link-to-nothing": [entry("h", tarfile.LNKTYPE, "a"), file],
        "hard-link-leads-out": [entry("h", tarfile.LNKTYPE, "../../../etc/passwd")],
        "device": [entry("dev", tarfile.CHRTYPE)],
        "pipe": [entry("pipe", tarfile.FIFOTYPE)],
        "twice": [file, file],
    }
    for name, entries in tars.items():
        with tarfile.open(f"{to}/{name}.tar", "w") as archive:
            for info, content in entries:
                archive.addfile(info, io.BytesIO(content))
    packed = gzip.compress(open(f"{to}/twice.tar", "rb").read() + os.urandom(10_000))
    write(f"{to}/cut.tar.gz", packed[: len(packed) // 2])
    write(f"{to}/page.zip", b"<html>This is a page and no archive.</html>")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("name-of-it", b"content")
    plain = zipped.getvalue()
    write(f"{to}/two-names.zip", plain.replace(b"name-of-it", b"other-name", 1))
    write(f"{to}/goes-up.zip", plain.replace(b"name-of-it", b"../../name"))
    # The first bit of the flags, of the entry and in the directory.
    locked = bytearray(plain)
    locked[6] |= 1
    locked[plain.index(b"PK\1\2") + 8] |= 1
    write(f"{to}/locked.zip", locked)
    with tarfile.open(f"{to}/bomb.tar", "w") as archive:
        info, _ = entry("bomb")
        info.size = BOMB_BYTES
        archive.addfile(info, open("/dev/zero", "rb"))
    run("zstd", "-q", "-1", "--rm", f"{to}/bomb.tar")


def make_repository(folder, to):
    """A repository TO of what is in the folder, with an older commit and a branch."""

    def git(*words):
        settings = ["-c", "user.name=e2e", "-c", "user.email=e2e@localhost", "-c", "init.defaultBranch=main"]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_DIR": to, "GIT_WORK_TREE": folder}
        return run("git", *settings, *words, env=environment)

    git("init", "--quiet")
    git("add", "words.txt", "run.sh")
    git("commit", "--quiet", "-m", "two files")
    git("branch", "older")
    git("add", "--all")
    git("commit", "--quiet", "-m", "all of it")


if __name__ == "__main__":
    made = sys.argv[1]
    sizes = {"data.bin": 300_000, "mirrored.bin": 3_000_000, "wanted.bin": 20_000_000, "wrong.bin": 1000}
    for name, size in sizes.items():
        write(f"{made}/{name}", os.urandom(size))
    make_folder(f"{made}/tree")
    os.mkdir(f"{made}/evil")
    make_archives(f"{made}/tree", made)
    make_evil(f"{made}/evil")
    make_repository(f"{made}/tree", f"{made}/it.git")
