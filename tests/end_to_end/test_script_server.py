# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The server that runs scripts for other tests: its processes behave as `python script.py` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import script_server
from script_server import ScriptServer


pytestmark = pytest.mark.slow  # it tests what other tests are made with


ENDINGS = {
    "nothing": "print('done')",
    "a number": "import sys; sys.exit(3)",
    "a number of no byte": "import sys; sys.exit(-2)",
    "None": "import sys; sys.exit()",
    "a sentence": "import sys; sys.exit('this went wrong')",
    "an exception": "def f():\n    raise ValueError('wrong')\n\nprint('begun')\nf()",
    "no Python": "print('never'\n",
    "an interruption": "raise KeyboardInterrupt",
    "at once": "import os; os._exit(7)",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "threads, then atexit": """
        import atexit, ctypes, threading, time
        atexit.register(print, 'atexit')
        ctypes.CDLL(None).printf(b'from C, at the very end\\n')
        threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()
        print('main')
    """,
    "atexit after an exception": "import atexit; atexit.register(print, 'atexit'); 1 / 0",
}


def written(folder: Path, source: str) -> Path:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    return script


@pytest.mark.parametrize("source", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_script_ends_and_prints_as_it_does_without_the_server(scripts: ScriptServer, tmp_path: Path, source) -> None:
    script = written(tmp_path, source)
    plain = subprocess.run(
        [sys.executable, "-u", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    run = scripts.run(script)
    assert (run.code, run.output) == (plain.returncode, plain.stdout)


def test_signals_are_those_of_a_fresh_python(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import signal, sys, time
        print([(int(number), str(signal.getsignal(number))) for number in sorted(signal.valid_signals())])
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        if sys.argv[1:]:
            print('ready')
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                sys.exit('interrupted')
    """
    script = written(tmp_path, source)
    plain = subprocess.run(  # as from a terminal: what a shell starts in the background ignores Ctrl-C
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    fresh = scripts.run(script).output
    strip = str.maketrans("", "", "0123456789abcdefx")  # the address of the handler of SIGINT
    assert fresh.translate(strip) == plain.stdout.translate(strip)
    sent = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    runs = [scripts.start(script, "wait") for _ in sent]
    for run, number in zip(runs, sent, strict=True):
        run.wait_for("ready")
        assert run.code is None
        run.kill(number)
    assert [run.wait() for run in runs] == [-9, -15, 1]
    assert runs[2].output.endswith("interrupted\n")
    runs[0].kill()  # it has ended: nothing happens


def test_arguments_environment_and_folder_arrive(scripts: ScriptServer, tmp_path: Path, monkeypatch) -> None:
    source = """
        import json, os, sys
        os.system('echo from a program')
        values = [sys.argv[1:], os.environ['GREETING'], os.getcwd(), sys.stdin.read(), os.getsid(0), __name__]
        print(json.dumps(values))
        print(__file__, sys.path[0], [key for key in os.environ if key.startswith(('RANK', 'WORLD', 'HF_TOKEN'))])
    """
    monkeypatch.chdir(tmp_path)
    script = written(tmp_path, source)
    run = scripts.run(script, "--steps", 3, tmp_path, "ü", env={"GREETING": "hello ü"})
    assert run.code == 0, run.output
    program, values, names = run.output.splitlines()
    assert program == "from a program"
    assert json.loads(values) == [
        ["--steps", "3", str(tmp_path), "ü"], "hello ü", str(tmp_path), "", run.pid, "__main__"
    ]  # fmt: skip
    assert names == f"{script} {tmp_path} []"
    with pytest.raises(ValueError, match="HF_DATASETS_CACHE was read when the server started"):
        scripts.start(script, env={"HF_DATASETS_CACHE": "somewhere"})
    with pytest.raises(FileNotFoundError):
        scripts.start("missing.py")


def test_a_run_may_have_less_than_the_tests_have(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import sys
        try:
            with open(sys.argv[1], 'wb', buffering=0) as file:
                while True:
                    file.write(b'.' * 1000)
        except OSError as error:
            print(type(error).__name__, error.strerror)
    """
    run = scripts.run(written(tmp_path, source), tmp_path / "file", limits={"RLIMIT_FSIZE": 5500})
    assert run.output == "OSError File too large\n" and (tmp_path / "file").stat().st_size == 5500


def test_processes_compute_together(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import torch
        from accelerate import Accelerator
        accelerator = Accelerator()
        mine = torch.tensor([10 + accelerator.process_index])
        print(accelerator.num_processes, accelerator.gather(mine).tolist(), accelerator.distributed_type)
        accelerator.end_training()
    """
    runs = scripts.start_together(2, written(tmp_path, source))
    for run in runs:
        assert run.wait() == 0, run.output
        assert run.output == "2 [10, 11] DistributedType.MULTI_CPU\n"


def test_a_run_may_take_all_threads_and_compute_gradients(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import os, torch
        print(len(os.listdir('/proc/self/task')))
        torch.set_num_threads(2)
        x = torch.randn(600, 600, requires_grad=True)
        for _ in range(3):
            (x @ x).sin().sum().backward()
        print(torch.get_num_threads(), len(os.listdir('/proc/self/task')) > 1, x.grad.shape)
    """
    script = written(tmp_path, source)
    for _ in range(2):  # one after the other, and two at once
        for run in [scripts.start(script), scripts.start(script)]:
            assert run.wait(60) == 0, run.output
            assert run.output == "1\n2 True torch.Size([600, 600])\n"


def test_the_server_has_computed_nothing(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import json, os
        from pathlib import Path
        tasks = Path(f'/proc/{os.getppid()}/task').iterdir()
        print(json.dumps([(task / 'comm').read_text().strip() for task in tasks]))
    """
    threads = json.loads(scripts.run(written(tmp_path, source)).output)
    assert len(threads) == 1 or (len(threads) == 2 and "jemalloc_bg_thd" in threads)  # pyarrow's memory, safe to fork


def test_a_run_changes_no_other(scripts: ScriptServer, tmp_path: Path) -> None:
    source = """
        import os, random, sys, numpy as np, torch
        state = [torch.get_num_threads(), torch.is_grad_enabled(), os.environ.get('CHANGED'), hasattr(np, 'changed')]
        print(state, os.getcwd(), torch.rand(1).item(), file=sys.stderr)
        print(random.random(), np.random.rand())
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        os.environ['CHANGED'] = 'yes'
        np.changed = True
        os.chdir('/')
    """
    script = written(tmp_path, source)
    outputs = [scripts.run(script).output.splitlines() for _ in range(2)]
    assert outputs[0][0] == outputs[1][0] and outputs[0][0].startswith("[1, True, None, False]")
    assert not set(outputs[0][1].split()) & set(outputs[1][1].split())  # as if each had been started by itself


def test_a_script_that_does_not_do_what_is_waited_for(scripts: ScriptServer, tmp_path: Path) -> None:
    script = written(tmp_path, "import sys, time; print('begun'); time.sleep(float(sys.argv[1]))")
    with pytest.raises(AssertionError, match=r"script.py did not end in 0.2 seconds:\nbegun"):
        scripts.start(script, 60).wait(0.2)
    run = scripts.start(script, 60)
    with pytest.raises(AssertionError, match=r"script.py did not print 'ended' in 0.2 seconds:\n"):
        run.wait_for("ended", 0.2)
    assert run.wait() == -9
    with pytest.raises(AssertionError, match=r"script.py ended with 0 before it printed 'ended':\nbegun"):
        scripts.start(script, 0).wait_for("ended")


def test_the_scripts_of_the_examples_start_at_once(scripts: ScriptServer) -> None:
    run = scripts.run("train.py", "--help")
    assert run.code == 0 and run.output.startswith("usage: train.py"), run.output


def test_when_its_stdin_closes_the_server_ends_all_runs(tmp_path: Path) -> None:
    bare = "import script_server as server; script = server.serve(); script and server.run_as_main(script)"
    # A run and a process that it starts hold a pipe open for as long as they live.
    source = """
        import os, sys, time
        with open(sys.argv[1], 'w') as alive:
            os.fork()
            print('begun', file=alive, flush=True)
            time.sleep(60)
            print('ended', file=alive)
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    request = {"run": str(written(tmp_path, source)), "argv": [str(pipe)], "env": {}, "cwd": "/", "limits": {}}
    request |= {"output": str(tmp_path / "output.txt")}
    helpers, pipes = Path(script_server.__file__).parent, {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", bare], cwd=helpers, **pipes) as server:
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["pid"]
        with pipe.open() as alive:
            assert [alive.readline(), alive.readline()] == ["begun\n"] * 2
            server.stdin.close()
            assert server.wait(60) == 0
            assert alive.read() == ""
