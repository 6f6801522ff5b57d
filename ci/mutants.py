"""Runs the mutations of arena/mutants.toml: see ci/mutants.sh.

A mutation replaces one text, or several, by others:

    [[mutation]]
    name = "..."
    rule = "..."          what it breaks
    file = "arena/src/..."
    within = "fn ..."     optional: search in this item only; or a list, one for each text
    find = '''...'''      an expression, or whole statements; or a list of such; white space does not count
    replace = '''...'''   what stands there instead; nothing by default
    check = "..."         "loom TEST", "lib TEST", "it TEST" or "stall TEST": what must fail
    survives = "..."      optional: why nothing notices it, instead of `check`
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path.cwd()
LIST = ROOT / "arena/mutants.toml"
TREE = ROOT / "target/mutants/tree"
# Two preemptions find all that three have found, in a fifth of the time.
PREEMPTIONS = "2"
LIMIT_SECONDS = float(os.environ.get("MUTANT_LIMIT_SECONDS", "300"))

SWITCH = """
/// Whether this mutation is switched on.
pub(crate) fn mutant(number: u32) -> bool {
    static CHOSEN: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        std::env::var("ARENA_MUTANT").map_or(u32::MAX, |number| number.parse().unwrap())
    });
    *CHOSEN == number
}
"""


class BadList(Exception):
    pass


def as_list(value):
    return value if isinstance(value, list) else [value]


def region(text, within):
    """The bounds of the item that `within` begins."""
    starts = [match.start() for match in re.finditer(re.escape(within), text)]
    if len(starts) != 1:
        raise BadList(f"{within!r} is there {len(starts)} times")
    line = text.rfind("\n", 0, starts[0]) + 1
    indent = re.match(" *", text[line:])[0]
    end = text.find(f"\n{indent}}}", starts[0])
    return starts[0], end if end >= 0 else len(text)


def edits(mutation, text):
    """What a mutation changes: where from, where to, and what stands there instead."""
    finds = as_list(mutation["find"])
    replaces = as_list(mutation.get("replace", [""] * len(finds)))
    withins = as_list(mutation.get("within", ""))
    if len(withins) == 1:
        withins *= len(finds)
    if not len(finds) == len(replaces) == len(withins):
        raise BadList("as many texts to find as to put there, and items to search in")
    for find, replace, within in zip(finds, replaces, withins):
        start, end = region(text, within) if within else (0, len(text))
        pattern = r"\s+".join(map(re.escape, find.split()))
        found = [match.span() for match in re.finditer(pattern, text[start:end])]
        if len(found) != 1:
            raise BadList(f"{find.strip()!r} is there {len(found)} times")
        yield start + found[0][0], start + found[0][1], replace.strip()


def switched(text, changes):
    """The text with every change behind its switch."""
    out, at = [], 0
    changes = sorted(changes, key=lambda change: (change[0], -change[1]))
    while changes:
        start, end = changes[0][:2]
        same = [change for change in changes if change[:2] == (start, end)]
        inner = [change for change in changes if change[:2] != (start, end) and change[0] < end]
        if any(change[1] > end for change in inner):
            raise BadList(f"two mutations overlap: {text[start:end]!r}")
        changes = [change for change in changes if change[0] >= end]
        moved = [(s - start, e - start, *rest) for s, e, *rest in inner]
        original = switched(text[start:end], moved)
        arms = "".join(f"if crate::mutant({number}) {{ {new} }} else " for *_, new, number in same)
        whole = f"{arms}{{ {original} }}"
        is_statement = text[start:end].rstrip().endswith((";", "}"))
        out += [text[at:start], whole if is_statement else f"({whole})"]
        at = end
    return "".join(out) + text[at:]


def mutated(mutations):
    """The changed files."""
    changes, bad = {}, []
    for number, mutation in enumerate(mutations):
        text = (ROOT / mutation["file"]).read_text()
        try:
            for start, end, new in edits(mutation, text):
                changes.setdefault(mutation["file"], []).append((start, end, new, number))
        except BadList as problem:
            bad.append(f"{mutation['name']}: {mutation['file']}: {problem}")
        if ("check" in mutation) == ("survives" in mutation):
            bad.append(f"{mutation['name']}: a check, or a reason why nothing notices it")
    if bad:
        raise BadList("\n".join(bad))
    return {file: switched((ROOT / file).read_text(), found) for file, found in changes.items()}


def copy_tree(files):
    """Puts the tree into a copy, with these files changed. Files that are as before keep their dates."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, listed):
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            target.unlink(missing_ok=True)
            continue
        content = source.read_bytes()
        if name in files:
            content = files[name].encode()
        if name == "arena/src/lib.rs":
            content += SWITCH.encode()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            shutil.copymode(source, target)


def build(kind):
    """Builds what a kind of check runs. Returns the program."""
    loom = kind == "loom"
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / ("loom" if loom else "")
    flags = "--cap-lints allow " + ("--cfg arena_loom" if loom else "")
    # Where a switch makes a `match` or a `loop` unusual, that is no matter.
    env = os.environ | {"CARGO_TARGET_DIR": str(target), "RUSTFLAGS": flags}
    which = ["--lib"] if kind in ("loom", "lib") else ["--test", kind]
    features = ["--features", "async-alloc"]
    profile = ["--profile", "testrelease"] if loom else []
    command = ["cargo", "test", "--package", "arena", *features, *which, *profile, "--no-run"]
    done = subprocess.run(command, cwd=TREE, env=env, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\nthe mutations do not compile")
    return TREE / re.findall(r"Executable .*\((.*)\)", done.stderr)[-1]


def run(program, tests, number):
    """Runs a check. Returns how it ended, and after how long."""
    env = os.environ | {"LOOM_MAX_PREEMPTIONS": PREEMPTIONS, "ARENA_MUTANT": str(number)}
    begin = time.monotonic()
    command = [program, *tests, "--test-threads=1"]
    child = subprocess.Popen(
        command, cwd=TREE / "arena", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=LIMIT_SECONDS)
        ran = re.search(r"running (\d+) test", output)
        if not ran or ran[1] == "0":
            sys.exit(f"{' '.join(tests)}: there is no such test\n{output}")
        ending = "passed" if child.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        ending = "ran on"
    return ending, time.monotonic() - begin


def main():
    chosen = sys.argv[1:]
    mutations = tomllib.loads(LIST.read_text())["mutation"]
    try:
        files = mutated(mutations)
    except BadList as problem:
        sys.exit(f"arena/mutants.toml does not fit the code:\n{problem}")
    if chosen == ["--check-list"]:
        return
    copy_tree(files)
    numbered = [
        (number, mutation) for number, mutation in enumerate(mutations)
        if not chosen or any(part in mutation["name"] for part in chosen)
    ]
    programs, sound = {}, set()
    survivors = 0
    print(f"{'mutation':<44} {'check':<70} {'':<10} seconds")
    for number, mutation in numbered:
        if "survives" in mutation:
            print(f"{mutation['name']:<44} survives: {mutation['survives']}")
            continue
        kind, *tests = mutation["check"].split()
        if kind not in programs:
            programs[kind] = build(kind)
        # What fails without the mutation proves nothing.
        if mutation["check"] not in sound:
            ending, seconds = run(programs[kind], tests, len(mutations))
            if ending != "passed":
                sys.exit(f"{mutation['check']}: {ending} without a mutation, after {seconds:.0f} s")
            sound.add(mutation["check"])
        ending, seconds = run(programs[kind], tests, number)
        word = "killed" if ending != "passed" else "SURVIVED"
        if ending == "ran on":
            word = "hangs"
        survivors += ending == "passed"
        print(f"{mutation['name']:<44} {mutation['check']:<70} {word:<10} {seconds:.1f}", flush=True)
    if survivors:
        sys.exit(f"{survivors} survived")


main()
