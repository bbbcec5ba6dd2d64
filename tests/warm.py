"""Fresh processes without the seconds that each needs to import torch and the like: one imports, and forks the others.

What runs in a fork is what `python FILE` or `python -m MODULE` would run, in an interpreter that has done nothing but
import libraries. Run as a program this file is that one process: `python -I tests/warm.py LIBRARY...`.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class WarmPython:
    """A process that has imported `libraries` and forks others: `with WarmPython(...) as python: python.run(...)`."""

    def __init__(self, libraries: Sequence[str], environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        command = [sys.executable, "-I", __file__, *libraries]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=self.environment, **pipes)

    def run(self, program: str, *arguments: str, cwd: Path, log: Path, environment: Mapping[str, str] = {}) -> str:
        """Run a module's name or a file's path as a program to its end.

        Args:
            program: as after `python -m`, or a path that ends with `.py`.
            arguments: its own.
            cwd: the folder that it runs in, and, for a module, that it is looked for in.
            log: a file for all that it prints.
            environment: variables on top of those that all of them have.

        Returns:
            What it printed; shows it if the exit status is not 0.
        """
        assert self.process.stdin
        assert self.process.stdout
        request = {"program": program, "arguments": arguments, "cwd": str(cwd), "log": str(log)}
        print(json.dumps(request | {"environment": dict(environment)}), file=self.process.stdin, flush=True)
        status = self.process.stdout.readline().strip()
        printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        assert status == "0", f"{program} {' '.join(arguments)} exited {status}\n{printed}"
        return printed

    def __enter__(self) -> "WarmPython":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()  # the end of its input ends it


def serve(libraries: Sequence[str]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for name in libraries:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def live(program: str, arguments: list[str], cwd: str, log: str, environment: dict[str, str]) -> None:
    """What the fork does; ends the process."""
    code: Any = 0
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        os.chdir(cwd)
        os.environ |= environment
        sys.argv = [program, *arguments]
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            sys.path.insert(0, cwd)
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1:])
