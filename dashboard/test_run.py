"""`make dashboard` ends at Ctrl-C and leaves nothing behind, even if one of its processes does not listen."""

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
    """The command lines of the processes that work in a folder, by process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace")
            environment = (process / "environ").read_text(errors="replace")
        except OSError:  # It has ended.
            continue
        if folder in command + environment:
            found[int(process.name)] = command.replace("\0", " ")
    return found


class Stopped(unittest.TestCase):
    def test_ctrl_c_leaves_no_process_and_no_file_even_if_a_process_does_not_listen(self) -> None:
        folder = tempfile.mkdtemp(prefix="streamstage-stop-")
        self.addCleanup(os.rmdir, folder)
        # PostgreSQL runs as another user when the caller is root, and has to enter.
        os.chmod(folder, 0o711)
        said = tempfile.NamedTemporaryFile()
        self.addCleanup(said.close)

        def text() -> str:
            return Path(said.name).read_text()

        # Whoever was started in the background hands on that Ctrl-C is ignored, and a shell cannot take that back.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        settings = {"TMPDIR": folder, "STREAMSTAGE_DASHBOARD_HISTORY": "500"}
        run = subprocess.Popen([RUN], env=os.environ | settings, stderr=said)
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
