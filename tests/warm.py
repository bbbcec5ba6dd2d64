"""Fresh processes without the seconds that each needs to import torch and the like: one imports, and forks the others.

What runs in a fork is what `python FILE`, `python -m MODULE` or `python -c CODE` would run, in an interpreter that has
done nothing but import libraries. A program named `python` asks for such a fork: where it comes first on PATH, DVC's
stages are forks, and so is what they start by `sys.executable`. The test processes of xdist are forks, too.

Run as a program this file is the process that imports and forks: `python tests/warm.py PYTHON LIBRARY...`, with the
socket that it is asked at as its standard input.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

PASSED_ON = (signal.SIGINT, signal.SIGTERM)
PROGRAM = """#!{interpreter} -IS
import sys
sys.path.insert(0, {folder!r})
from warm import be_python
be_python({address!r})
"""


class WarmPython:
    """A process that imports `libraries` once it is asked to, and forks others, until `close`.

    Args:
        libraries: modules; what stands behind a colon is a function in it that is called, for what it then remembers.
        environment: of that process.

    Attributes:
        programs: a folder that holds nothing but the program `python`.
    """

    def __init__(self, libraries: Sequence[str], environment: Mapping[str, str]) -> None:
        self.home = Path(mkdtemp(prefix="warm-"))  # a socket's name has to be short
        self.programs, self.address = self.home / "bin", str(self.home / "socket")
        self.programs.mkdir()
        text = PROGRAM.format(interpreter=sys.executable, folder=str(Path(__file__).parent), address=self.address)
        (self.programs / "python").write_text(text)
        (self.programs / "python").chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen(64)
            command = [sys.executable, __file__, str(self.programs / "python"), *libraries]
            self.process = subprocess.Popen(
                command, env=dict(environment), stdin=listener.fileno(), start_new_session=True
            )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        rmtree(self.home)


def ask(address: str, words: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> int:
    """Let `python WORDS` run in a fork of the process that listens at `address`; returns its exit status. Signals
    that this process gets are passed on; if it is killed, so is the fork.

    Args:
        address: of a socket.
        words: begin with `-m`, `-c`, or a path that ends with `.py`.
        cwd: the folder that it runs in.
        environment: all its variables.
        files: its standard input, output and error.
    """
    request = json.dumps({"words": words, "cwd": cwd, "environment": environment}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8)], files)
        connection.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        status = int(connection.recv(16))
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
    return status


def be_python(address: str) -> None:
    """Do as `python` does with this process's arguments."""
    words = sys.argv[1:]
    while words and words[0] in ("-I", "-u"):  # the process that forks has no PYTHONPATH anyhow
        words = words[1:]
    if not words or not (words[0] in ("-m", "-c") or words[0].endswith(".py")):
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    status = ask(address, words, str(Path.cwd()), dict(os.environ), [0, 1, 2])
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(python: str, libraries: Sequence[str], listener: socket.socket) -> None:
    """Answer each request in a fork, as long as who started this process lives; `python` is the program that asks."""
    parent, is_warm = os.getppid(), False
    while os.getppid() == parent:
        reap()
        if not select([listener], [], [], 1.0)[0]:
            continue
        connection, _ = listener.accept()
        if not is_warm:
            gc.disable()
            for name in libraries:
                module, _, function = name.partition(":")
                library = importlib.import_module(module)
                if function:
                    getattr(library, function)()
            gc.enable()
            gc.freeze()  # a collection would touch, and so copy, what forks share
            sys.executable = python
            is_warm = True
        if os.fork() == 0:
            listener.close()
            answer(connection)
            os._exit(0)
        connection.close()


def reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(connection: socket.socket) -> None:
    """Read a request, run it in a fork, and tell its exit status; kill it if who asked is gone."""
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as sent:
        request = json.loads(sent.read(int.from_bytes(size)))
    child = os.fork()
    if child == 0:
        connection.close()
        live(files, **request)
    for file in files:
        os.close(file)
    end = os.pidfd_open(child)
    is_wanted = True
    while end not in select([end, connection] if is_wanted else [end], [], [])[0]:
        signals = connection.recv(16)
        is_wanted = bool(signals)
        for number in signals or [signal.SIGKILL]:
            os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    if is_wanted:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def live(files: list[int], words: list[str], cwd: str, environment: dict[str, str]) -> None:
    """What the fork does; ends the process."""
    code: Any = 0
    try:
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        os.chdir(cwd)
        os.environ.clear()
        os.environ |= environment
        sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.path.insert(0, "")
            sys.modules["__main__"] = ModuleType("__main__")
            exec(words[1], vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
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
    sys.path.pop(0)  # this file's folder; `-I` would leave it out, but multiprocessing passes `-I` on in the forks
    asked = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    serve(sys.argv[1], sys.argv[2:], asked)
