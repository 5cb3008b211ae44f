#!/usr/bin/python3 -B
"""Runs the tests on a lab of their own: brings it up, runs them in order, tells what each took, takes it away.

    tests/lab/run.py                        all
    tests/lab/run.py power docker.Restart   only these: a file, a class in it, or one test of that
    tests/lab/run.py --half 2               the second half of them, so that two labs can share the time
    tests/lab/run.py --long                 what breaks things 20 times over, longer outages
    tests/lab/run.py --keep                 leaves the lab (STAMPEDE_LAB=e2e scripts/lab …) as the tests left it
    tests/lab/run.py --list

The agent is the one that STAMPEDE_BINARY names, or the newest in target/. The last line is `N passed, N failed`.
"""

import argparse
import os
import signal
import sys
import time
import traceback
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "scripts/lib")]

import case  # noqa: E402
from hosts import Lab  # noqa: E402

# Each half has a lab of its own in scripts/test, and both run at the same time: they mostly wait. What reads and asks is in the
# first, idling before there is anything removed that is yet to be forgotten; what breaks hosts is in the second, what takes
# them away last.
HALVES = [
    ["idle", "containers", "lifecycle", "answers", "inspect_host", "behind", "streams", "agents", "images", "placement", "links", "dns",
     "metadata", "dhcp", "ports", "bindings", "ui", "floating"],
    ["virtual_machines", "volumes.Volumes", "volumes.Snapshots.test_a_volume_is_what_it_was", "identity", "adopted", "isolation", "docker", "etcd", "power", "failover", "single", "trust"],
]
# Packages are built and hosts made of them; what becomes of snapshots where much goes wrong: minutes each.
LONG = ["volumes.Snapshots", "volumes.Full", "packages", "cloud_config"]


class Result(unittest.TestResult):
    """One line a test, its failure below it at once."""

    def __init__(self):
        super().__init__()
        self.passed = 0
        self.bad = []

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def addSuccess(self, test):
        self.passed += 1
        self._line("ok", test)

    def addFailure(self, test, error):
        self._failed(test, error)

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._failed(subtest, error)

    def addSkip(self, test, reason):
        # Nothing here is optional: what is not run is not good.
        self._failed(test, (AssertionError, AssertionError(f"skipped: {reason}"), None))

    def _failed(self, test, error):
        self.bad.append(name(test))
        self._line("FAILED", test)
        sys.stdout.write("".join(f"    {line}\n" for line in "".join(traceback.format_exception(*error)).splitlines()))
        for line in case.diagnosis():
            print(f"    | {line}")
        sys.stdout.flush()

    def _line(self, word, test):
        print(f"{word:6} {time.monotonic() - self.started:6.1f} s  {name(test)}", flush=True)


def name(test):
    return test.id() if hasattr(test, "id") else str(test)


def tests_of(suite):
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from tests_of(one)
        else:
            yield one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="FILE[.CLASS[.TEST]]")
    parser.add_argument("--half", type=int, choices=range(1, len(HALVES) + 1))
    parser.add_argument("--release", default="trixie")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    case.LONG = options.long
    case.RELEASE = options.release

    halves = [HALVES[0], HALVES[1] + LONG] if options.long else HALVES
    files = halves[options.half - 1] if options.half else [file for half in halves for file in half]
    suite = unittest.defaultTestLoader.loadTestsFromNames(options.words or files)
    broken = unittest.defaultTestLoader.errors
    if broken:
        print("\n".join(broken))
        return 2
    tests = list(tests_of(suite))
    if options.list:
        print("\n".join(name(test) for test in tests))
        return 0

    # Started beside something else, it is ended by this signal, and takes its lab away then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lab = case.LAB = Lab(os.environ.get("STAMPEDE_LAB", "e2e"))
    fresh = not lab.rows()
    result = Result()
    try:
        if lab.stream("up", "3", *(["--release", options.release] if fresh else [])) != 0 or (
                not fresh and lab.stream("install", "--restart") != 0):
            print("the lab does not come up")
            for line in case.diagnosis():
                print(f"    | {line}")
            print("0 passed, 1 failed")
            return 1
        case.prepare()
        suite.run(result)
    finally:
        if not options.keep:
            lab.stream("down")
    if result.bad:
        print("failed: " + ", ".join(result.bad))
    print(f"{result.passed} passed, {len(result.bad)} failed", flush=True)
    return 1 if result.bad else 0


if __name__ == "__main__":
    sys.exit(main())
