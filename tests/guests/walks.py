"""Follows a guest's writes to configuration space through the source with gdb.

    python3 tests/guests/walks.py

For each table of docs/walks.md this program runs the guest test of that name under gdb and steps
the vCPU's thread, one instruction at a time, from the return of KVM_RUN to the next KVM_RUN. It
prints the files of src/ that were visited, and fails where they differ from the table.
"""

import json
import os
import re
import shutil
import subprocess
import sys

try:
    import gdb
except ImportError:
    gdb = None

LOOP = "src/vmm/vcpu/exit_loop.rs"
# Logging, counters and error types do not count.
LEFT_OUT = re.compile(r"^src/vmm/(log|counters)/|/error\.rs$")


def tables():
    """Name of each walk, its limit, and its files with whether a test visits them."""
    walks = []
    for line in open("docs/walks.md", encoding="utf-8"):
        if title := re.match(r"## `(\w+)`: at most (\d+) files", line):
            walks.append((title[1], int(title[2]), []))
        elif row := re.match(r"\| `(src/[^`]*)`( \*)? \|", line):
            walks[-1][2].append((row[1], row[2] is None))
    return walks


def follow():
    """Inside of gdb: writes the visited files to $WALK."""
    root = os.getcwd() + "/"
    source = open(LOOP, encoding="utf-8").read().splitlines()
    run = next(i for i, line in enumerate(source, 1) if "bus_error::watch(" in line)
    for setting in ("pagination off", "confirm off", "print thread-events off"):
        gdb.execute("set " + setting)
    gdb.execute("handle SIG34 nostop noprint pass")
    gdb.execute(f"break {LOOP}:{run + 1}")
    gdb.execute("run", to_string=True)
    # The other threads stand still meanwhile.
    gdb.execute("set scheduler-locking step")
    known, visited = {}, []
    while True:
        pc = gdb.newest_frame().pc()
        if pc not in known:
            place = gdb.find_pc_line(pc)
            path = place.symtab.fullname() if place.symtab else ""
            known[pc] = (path.removeprefix(root), place.line)
        file, line = known[pc]
        if (file, line) == (LOOP, run):
            break
        if file.startswith("src/") and file not in visited:
            visited.append(file)
        gdb.execute("stepi", to_string=True)
    with open(os.environ["WALK"], "w", encoding="utf-8") as out:
        json.dump(visited, out)
    gdb.execute("kill")


def binary():
    """The debug build of the guests' tests."""
    build = "cargo test --no-run --test guests --message-format json".split()
    lines = subprocess.run(build, check=True, capture_output=True, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == "guests")


def main():
    if not (shutil.which("gdb") and os.access("/dev/kvm", os.W_OK)):
        sys.exit("SKIPPED: this needs gdb and /dev/kvm")
    guests, failed = binary(), False
    result = os.path.join("target", "walk.json")
    for name, limit, files in tables():
        command = ["gdb", "-q", "-batch", "-x", __file__, "--args", guests]
        command += ["--exact", "walks::" + name, "--test-threads=1"]
        environment = {**os.environ, "WALK": result}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        with open(result, encoding="utf-8") as file:
            visited = [file for file in json.load(file) if not LEFT_OUT.search(file)]
        os.remove(result)
        print(f"{name}: {len(visited)} files, {len(files)} in the table, at most {limit}")
        print("".join(f"    {file}\n" for file in visited), end="")
        wanted = [file for file, in_test in files if in_test]
        if visited != wanted:
            failed = True
            differ = sorted(set(visited) ^ set(wanted)) or ["the order"]
            print("    The table differs:", ", ".join(differ))
    sys.exit(failed)


if gdb:
    follow()
else:
    main()
