# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs the scripts in examples/ as processes that need not import anything.

A server that has imported everything forks one process for each run.

The processes are real: signals end them, and their exit codes are those of `python script.py`. `env` cannot change
settings that libraries read when they are imported (`READ_BY_IMPORTS`), since the server has imported them already.
The settings of the Hub's client are an exception: they are read again.

The server reads one request per line from stdin, and answers each with one line:

    {"run": script, "argv": [...], "env": {...}, "cwd": folder, "output": file, "limits": {...}}   {"pid": number}
    {"poll": pid}                                                                                  {"code": number}

where code is None while the process runs. When its stdin closes, the server kills all running processes and ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import itertools
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hub_settings import READ_AGAIN, read_hub_settings


EXAMPLES = Path(__file__).parents[2] / "examples"
# Settings of a machine or a launcher that say nothing of the runs here.
NOT_INHERITED = ("HF_", "HUGGING_FACE_", "ACCELERATE_", "TORCHELASTIC_", "MASTER_", "RANK", "LOCAL_RANK")
NOT_INHERITED += ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "PMI_", "OMPI_", "MV2_", "OMP_", "GOMP_")
# What libraries read once, when they are imported: to set it for one run would do nothing.
READ_BY_IMPORTS = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "OMP_", "GOMP_", "MKL_", "OPENBLAS_")
READ_BY_IMPORTS += ("PYTHON", "MPL", "ARROW_")
POLL_SECONDS = 0.01


# --- the server ------------------------------------------------------------------------------------------------------


def import_everything() -> None:
    """Import everything that the scripts and the hooks of tests need.

    This computes nothing: forked processes lack the server's threads, and would wait for a thread pool for ever.
    """
    names = [
        "ddpm_hf.runtime.threads",
        "torch",
        "torch.distributed",
        "torch.distributed.elastic.multiprocessing.errors",
    ]
    names += ["torch._dynamo"]  # by DistributedDataParallel, when it is made
    names += ["accelerate", "accelerate.utils", "datasets", "sklearn.datasets", "scipy.optimize", "yaml"]
    names += ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "PIL.Image", "safetensors.torch"]
    names += ["ddpm_hf.pipelines.pipeline_ddpm_paper", "ddpm_hf.likelihood.ode", "ddpm_hf.diffusion.losses"]
    names += ["ddpm_hf.likelihood.importance_weighting", "ddpm_hf.likelihood.measurement", "diffusers.optimization"]
    names += [f"ddpm_hf.cli.{verb}" for verb in ("train", "sample", "evaluate", "measure", "classify", "push")]
    names += ["hooks", "in_process"]
    for name in names:
        importlib.import_module(name)
    for name in ("torch.utils.tensorboard", "diffusers.guiders", "sklearn.datasets.data", "sklearn.datasets.descr"):
        with contextlib.suppress(ImportError):  # not there in every environment or version
            importlib.import_module(name)
    # By name, because these packages import a class when it is asked for.
    import PIL
    from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel  # noqa: F401
    from transformers import HfArgumentParser  # noqa: F401

    DDPMScheduler._get_compatibles()  # saving a pipeline asks for these classes
    PIL.Image.init()


def fresh_signals() -> None:
    """Set the signal handlers of a new Python process, whatever the server's parent or a library has set."""
    ignored = {signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # the C library keeps some for itself
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve() -> str | None:
    """Answer requests; returns the script in a forked process that is to run it, and None in the server at its end."""
    # The protocol moves off the standard streams, which any library may print to.
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    codes: dict[int, int | None] = {}
    while line := requests.readline():
        request = json.loads(line)
        if "poll" in request:
            pid = request["poll"]
            if codes[pid] is None and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
            answer = {"code": codes[pid]}
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                requests.close()
                answers.close()
                become(request)
                return request["run"]
            codes[pid] = None
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)
    for pid in (pid for pid, code in codes.items() if code is None):
        kill_group(pid)
        os.waitpid(pid, 0)
    return None


def become(request: dict[str, Any]) -> None:
    """Give this forked process the arguments, environment and output of `python script.py`."""
    import numpy as np

    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=True)
    os.environ.update(request["env"])
    if any(key.startswith(READ_AGAIN) for key in request["env"]):
        read_hub_settings()
    os.chdir(request["cwd"])
    sys.argv = [request["run"], *request["argv"]]
    sys.path[0] = str(Path(request["run"]).parent)
    importlib.invalidate_caches()
    np.random.seed()  # `random` sees to itself after a fork; torch starts from one seed everywhere
    for name, value in request["limits"].items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def run_as_main(script: str) -> NoReturn:
    """Run the script and end as the interpreter does, without the third of a second that freeing memory takes."""
    code, interrupted = 0, False
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != script:
            trace = trace.tb_next  # from the script on
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    for end in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            end()
        except BaseException:
            traceback.print_exc()
    ctypes.CDLL(None).fflush(None)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def kill_group(pid: int) -> None:
    """Kill a run and the workers that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # forked, but not yet the leader of its group
        os.kill(pid, signal.SIGKILL)


# --- the tests' side -------------------------------------------------------------------------------------------------


class Script:
    """A script that is running or has ended."""

    def __init__(self, ask: Callable[[dict[str, Any]], dict[str, Any]], pid: int, name: str, file: Path):
        self.pid, self.name = pid, name
        self._ask, self._file = ask, file
        self._lock = threading.Lock()
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal, and None while the script runs."""
        with self._lock:
            if self._code is None:
                self._code = self._ask({"poll": self.pid})["code"]
            return self._code

    @property
    def output(self) -> str:
        """Everything that the script has printed so far, to stdout or stderr."""
        return self._file.read_text("utf-8", errors="replace")

    def wait(self, seconds: float = 120) -> int:
        """Wait for the end of the script; returns its exit code."""
        end = time.monotonic() + seconds
        while (code := self.code) is None:
            if time.monotonic() > end:
                self._give_up(f"did not end in {seconds:g} seconds")
            time.sleep(POLL_SECONDS)
        return code

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until the script has printed the text."""
        end = time.monotonic() + seconds
        while True:
            code = self.code  # before the output: what it printed last counts too
            if text in self.output:
                return
            if code is not None:
                raise AssertionError(f"{self.name} ended with {code} before it printed {text!r}:\n{self.output}")
            if time.monotonic() > end:
                self._give_up(f"did not print {text!r} in {seconds:g} seconds")
            time.sleep(POLL_SECONDS)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal as os.kill does; does nothing if the script has ended."""
        with self._lock:  # nobody may learn of its end between: its number could then be another process's
            if self._code is None:
                self._code = self._ask({"poll": self.pid})["code"]
            if self._code is None:
                os.kill(self.pid, number)

    def _give_up(self, what: str) -> None:
        with self._lock:
            if self._code is None:
                kill_group(self.pid)
        raise AssertionError(f"{self.name} {what}:\n{self.output}")


class ScriptServer:
    """Runs scripts; as a context manager, it kills the running scripts at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def __enter__(self) -> ScriptServer:
        self._temporary = tempfile.TemporaryDirectory(prefix="scripts-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        settings = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        settings |= {"HF_HOME": str(self._folder / "hf"), "HF_DATASETS_CACHE": str(self._folder / "hf" / "datasets")}
        # The models of tests are so small that one thread is the fastest; alone, a script takes all cores.
        settings |= {"MPLBACKEND": "Agg", "LOCAL_WORLD_SIZE": str(os.cpu_count())}
        self._errors = self._folder / "server.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=kept | settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the tests alone
            )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._temporary.cleanup()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server of scripts has ended:\n{self._errors.read_text('utf-8', 'replace')}")
        return json.loads(answer)

    def start(
        self,
        script: str | Path,
        *arguments: object,
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
    ) -> Script:
        """Start a script of examples/, or another one by its full path, in the current folder of the tests.

        `env` is added to the server's environment. `limits` are soft limits, such as `{"RLIMIT_FSIZE": bytes}`;
        they also apply to the file with the output.
        """
        path = EXAMPLES / script
        if not path.is_file():
            raise FileNotFoundError(path)
        for key in env or {}:
            if key.startswith(READ_BY_IMPORTS) and not key.startswith(READ_AGAIN):
                raise ValueError(f"{key} was read when the server started; it would do nothing here.")
        sys.audit("script_server.start", str(path))
        output = self._folder / f"{next(self._numbers)}-{path.stem}.txt"
        output.touch()
        request = {"run": str(path), "argv": [str(argument) for argument in arguments], "env": env or {}}
        request |= {"cwd": os.getcwd(), "output": str(output), "limits": limits or {}}
        return Script(self._ask, self._ask(request)["pid"], path.name, output)

    def start_together(
        self, processes: int, script: str | Path, *arguments: object, env: dict[str, str] | None = None
    ) -> list[Script]:
        """Start processes that compute together on the CPU, as torchrun does; none is killed if another one fails."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "1"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (env or {})
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
        return [self.start(script, *arguments, env=common | rank) for rank in ranks]

    def run(
        self,
        script: str | Path,
        *arguments: object,
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        seconds: float = 120,
    ) -> Script:
        """Run a script to its end."""
        started = self.start(script, *arguments, env=env, limits=limits)
        started.wait(seconds)
        return started


if __name__ == "__main__":
    import_everything()
    fresh_signals()
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page that it looks at
    script = serve()
    if script is not None:
        run_as_main(script)
