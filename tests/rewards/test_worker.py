"""The worker process: limits that end it, and that it ends with the program."""

import gc
import os
import signal
import subprocess
import sys

import pytest

from valuegrad.errors import RunError
from valuegrad.rewards.worker import EndedError, Worker

SLOW = """
import os, signal, time

def pid():
    return os.getpid()

def sleep(seconds):
    time.sleep(seconds)
    return 1.0

def loop():
    while True:
        pass

def tower():
    return float(9 ** 9 ** 9 ** 9)  # one call into C

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def interrupt_the_program():
    os.kill(os.getppid(), signal.SIGINT)
    loop()

def seed():
    return os.environ["PYTHONHASHSEED"], hash("text")

def hang(fifo):
    with open(fifo, "w"):  # a reader sees its end with that of this process
        while True:
            pass
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    import slow

    yield slow
    del sys.modules["slow"]


@pytest.fixture
def worker():
    made = Worker("math", cpu_seconds=0.2)
    yield made
    made.close()


def ended(pid):
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    return True


@pytest.mark.parametrize("hang", ["loop", "tower"])
def test_an_item_that_takes_too_much_cpu_time_earns_0_and_the_others_their_score(
    slow, worker, hang
):
    first = worker.call(slow.pid)
    assert worker.scores(getattr(slow, hang), [()]) == [0.0]
    assert ended(first)
    assert worker.scores(_one_of, [("sleep", 0.0), (hang,), ("sleep", 0.0)]) == [1.0, 0.0, 1.0]


def _one_of(name, *arguments):
    import slow

    return getattr(slow, name)(*arguments)


def test_time_that_passes_while_the_machine_is_busy_costs_no_item_its_score(slow, worker):
    assert worker.scores(slow.sleep, [(0.5,)]) == [1.0]  # more than its CPU time


@pytest.mark.parametrize(("hang", "arguments"), [("loop", ()), ("tower", ()), ("sleep", (1e6,))])
def test_a_call_that_outlasts_its_limit_ends_with_its_process(slow, worker, hang, arguments):
    first = worker.call(slow.pid)
    with pytest.raises(EndedError, match=r"no result within 0\.1 s"):
        worker.call(getattr(slow, hang), *arguments, limit=0.1)
    assert ended(first)
    assert worker.call(slow.pid) != first


def test_a_process_that_ends_for_another_reason_is_reported(slow, worker):
    # pebble may see the end of a process before it hears that the call had started.
    with pytest.raises(EndedError, match=r"code (-9|None)"):
        worker.call(slow.kill)
    with pytest.raises(RunError, match=r"math met the end of its process \(code (-9|None)\)"):
        worker.scores(slow.kill, [()])
    with pytest.raises(RunError, match=r"sleep failed on \('x',\): TypeError"):
        worker.scores(slow.sleep, [("x",)])
    assert worker.scores(slow.sleep, [(0.0,)]) == [1.0]
    with pytest.raises(EndedError, match="the end of its process"):
        Worker("no_such_module").call(slow.pid)


@pytest.fixture
def interruptible():
    """Heed interrupts, which a shell ignores for what runs behind it, also amid finalizers.

    Python drops a KeyboardInterrupt that meets a finalizer.
    """
    gc.disable()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    gc.enable()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_ends_its_process_and_what_waits(slow, worker):
    first = worker.call(slow.pid)
    with pytest.raises(KeyboardInterrupt):
        worker.call(slow.interrupt_the_program)
    assert ended(first)
    with pytest.raises(KeyboardInterrupt):
        # More than a pipe holds.
        worker.scores(_one_of, [("interrupt_the_program",), *[("loop",)] * 5000])
    assert worker.call(slow.pid) != first


def test_every_process_hashes_texts_alike_and_the_program_as_it_did(slow, worker, monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    main, spec = sys.modules["__main__"], sys.modules["__main__"].__spec__
    first = worker.call(slow.seed)
    worker.close()
    assert worker.call(slow.seed) == first
    assert first[0] == "0"
    assert "PYTHONHASHSEED" not in os.environ
    assert main.__spec__ is spec


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import slow
from valuegrad.rewards.worker import Worker
Worker().call(slow.hang, {fifo!r})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_hung_process_ends_with_the_program(slow, tmp_path, number):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path), fifo=fifo)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with open(fifo) as stream:  # noqa: PTH123 - waits until the process hangs
        if number == signal.SIGINT:
            os.killpg(program.pid, number)  # as a terminal does
        else:
            program.send_signal(number)
        assert stream.read() == ""  # waits until it has ended
    _, printed = program.communicate()
    assert program.returncode == -number
    assert printed.count("Traceback") == (number == signal.SIGINT)


def test_a_program_without_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import math\n"
        "from valuegrad.rewards.worker import Worker\n"
        "print('run', Worker().call(math.sqrt, 4.0))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("run 2.0\n", "")
