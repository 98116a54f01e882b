#!/usr/bin/env python3
"""A Containerfile's steps in folders instead of containers: debootstrap makes the base, chroot runs the rest. For
machines without a container engine; as root, with debootstrap.

  tools/run_containerfile.py FOLDER --mount models=/models --mount ~/.cache/ccache=/root/.cache/ccache -- prune MODEL -o OUT

runs ./Containerfile and then its ENTRYPOINT with the arguments behind "--". Folders that are mounted are there in every
step. It knows what ours has (FROM, ARG, RUN, COPY, WORKDIR, ENTRYPOINT) and refuses the rest by name.

It works in a mount namespace of its own, so that /dev and folders that are mounted are not left within a step's folder,
whatever ends it, and it deletes no folder that something is mounted in: that would delete what is mounted.
"""
import argparse
import contextlib
import glob
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

BASES = {"debian:12": "bookworm"}


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def mounts_in(folder):
    """Where something is mounted, within a folder."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    places = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines]
    return [place for place in places if pathlib.Path(place).is_relative_to(folder)]


def delete(folder):
    """With all that is in it, but nothing that is mounted in it."""
    if found := mounts_in(folder):
        sys.exit(f"{folder}: found {found[0]} mounted in it, expected nothing; umount it first")
    if folder.exists():
        shutil.rmtree(folder)


def instructions(text):
    """(name, rest) of each; a line that ends with a backslash goes on."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        yield name.upper(), rest.strip()


@contextlib.contextmanager
def mounted(root, mounts):
    with contextlib.ExitStack() as stack:
        for source, target in [("/proc", "/proc"), ("/sys", "/sys"), ("/dev", "/dev"), *mounts]:
            place = root / target.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            run("mount", "--rbind" if target in ("/dev", "/sys") else "--bind", source, place)
            stack.callback(run, "umount", "--lazy", place)
        yield


class Build:
    def __init__(self, folder, mounts, given):
        self.folder, self.mounts, self.given = folder, mounts, given
        self.arguments, self.roots = {}, {}
        self.root, self.workdir, self.entry = None, "/", []

    def base(self, image):
        if image not in BASES:
            sys.exit(f"FROM: found {image}, expected one of {', '.join(BASES)}")
        root = self.folder / BASES[image]
        if not root.exists():
            made = root.with_suffix(".unfinished")
            delete(made)
            run("debootstrap", "--variant=minbase", BASES[image], made)
            made.rename(root)
        return root

    def chroot(self, *command):
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        with mounted(self.root, self.mounts):
            run("chroot", self.root, "/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command)

    def copy(self, rest):
        words = rest.split()
        origin = pathlib.Path(".")
        ignored = pathlib.Path(".dockerignore").read_text(encoding="utf-8").split()
        if words[0].startswith("--from="):
            origin, ignored = self.roots[words.pop(0)[len("--from="):]], []
        *sources, target = words
        place = self.root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source == ".":
                files = subprocess.run(["tar", "-c", *(f"--exclude=./{name}" for name in ignored), "."], check=True,
                                       stdout=subprocess.PIPE, cwd=origin).stdout
                subprocess.run(["tar", "-x", "--no-same-owner", "-C", place], input=files, check=True)
                continue
            found = glob.glob(str(origin / source.lstrip("/")))
            if not found:
                sys.exit(f"COPY: found no {source}")
            for file in found:
                shutil.copy(file, place)

    def step(self, name, rest):
        for argument, value in self.arguments.items():
            rest = rest.replace("${%s}" % argument, value)
        print(f"== {name} {rest}", flush=True)
        if name == "ARG":
            argument, _, value = rest.partition("=")
            self.arguments[argument] = self.given.get(argument, value)
        elif name == "FROM":
            image, *called = re.split(r"\s+AS\s+", rest, flags=re.IGNORECASE)
            self.root, self.workdir = self.folder / f"stage{len(self.roots)}", "/"
            delete(self.root)
            run("cp", "-a", "--reflink=auto", self.base(image), self.root)
            self.roots[called[0] if called else str(len(self.roots))] = self.root
        elif name == "RUN":
            self.chroot("/bin/sh", "-c", rest)
        elif name == "COPY":
            self.copy(rest)
        elif name == "WORKDIR":
            self.workdir = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "ENTRYPOINT":
            self.entry = json.loads(rest)
        else:
            sys.exit(f"{name}: found an instruction that this script does not know")


def main():
    own = "SWIFTPRUNE_OWN_MOUNTS"
    if own not in os.environ:
        os.environ[own] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--mount", action="append", default=[], metavar="HERE=THERE")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    command = sys.argv[1:]
    end = command.index("--") if "--" in command else len(command)
    given, arguments = parser.parse_args(command[:end]), command[end + 1:]
    mounts = [mount.split("=", 1) for mount in given.mount]
    build = Build(given.folder.resolve(), [(pathlib.Path(here).expanduser().resolve(), there) for here, there in mounts],
                  dict(argument.split("=", 1) for argument in given.build_arg))
    build.folder.mkdir(parents=True, exist_ok=True)
    for name, rest in instructions(pathlib.Path("Containerfile").read_text(encoding="utf-8")):
        build.step(name, rest)
    print(f"== {' '.join([*build.entry, *arguments])}", flush=True)
    build.chroot(*build.entry, *arguments)


if __name__ == "__main__":
    main()
