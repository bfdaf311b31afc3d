"""`make dashboard` stops at Ctrl-C without leaving processes or files, even if a process ignores the signal."""

import os
import signal
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

RUN = Path(__file__).parent / "run"


def wait(condition: Callable[[], bool], seconds: int, message: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {message()}")
        time.sleep(0.2)


def processes(folder: str) -> dict[int, str]:
    """Command lines of the processes that refer to a folder, by process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace")
            environment = (process / "environ").read_text(errors="replace")
        except OSError:  # The process has exited.
            continue
        if folder in command + environment:
            found[int(process.name)] = command.replace("\0", " ")
    return found


class Stopped(unittest.TestCase):
    def test_ctrl_c_leaves_no_process_and_no_file_even_if_a_process_ignores_it(self) -> None:
        folder = tempfile.mkdtemp(prefix="streamstage-stop-")
        self.addCleanup(os.rmdir, folder)
        # If the caller is root, PostgreSQL runs as another user, which must be able to enter.
        os.chmod(folder, 0o711)
        stderr = tempfile.NamedTemporaryFile()
        self.addCleanup(stderr.close)

        def text() -> str:
            return Path(stderr.name).read_text()

        # A background process inherits that SIGINT is ignored, and a shell cannot undo that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        settings = {"TMPDIR": folder, "STREAMSTAGE_DASHBOARD_HISTORY": "500"}
        run = subprocess.Popen([RUN], env=os.environ | settings, stderr=stderr)
        self.addCleanup(run.kill)
        wait(lambda: "user admin, password" in text() or run.poll() is not None, 600, text)
        self.assertIsNone(run.poll(), text())

        [worker] = [process for process, command in processes(folder).items() if "--listen" in command]
        os.kill(worker, signal.SIGSTOP)
        run.send_signal(signal.SIGINT)
        wait(lambda: run.poll() is not None, 120, text)
        self.assertEqual(run.returncode, 0, text())
        self.assertEqual(processes(folder), {})
        self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
