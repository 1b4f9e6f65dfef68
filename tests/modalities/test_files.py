"""Writing aside, locks, and folders that are replaced whole."""

import multiprocessing
import os
import signal
import time

import pytest

from modalities.files import Refused, lock, replace_folder, undisturbed, write_aside


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


class TestWriteAside:
    def test_a_file_is_replaced_when_all_is_written(self, tmp_path, umask):
        path = tmp_path / "table.csv"
        path.write_text("old")
        with write_aside(path) as part:
            assert part.suffix == ".csv" and part.parent == tmp_path
            os.unlink(part)  # as writers do that make a file anew
            part.write_text("new")
            part.chmod(0o600)
            assert path.read_text() == "old"
        assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
        assert os.listdir(tmp_path) == ["table.csv"]

    def test_what_goes_wrong_leaves_the_file_as_it_was(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), write_aside(path) as part:
            part.write_text("half")
            raise ZeroDivisionError
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]

    def test_two_writers_have_a_file_each(self, tmp_path):
        with write_aside(tmp_path / "a") as one, write_aside(tmp_path / "a") as two:
            one.write_text("one")
            two.write_text("two")
        assert (tmp_path / "a").read_text() == "one" and os.listdir(tmp_path) == ["a"]

    def test_what_a_link_leads_to_is_replaced(self, tmp_path):
        (tmp_path / "real").write_text("old")
        (tmp_path / "link").symlink_to("real")
        with write_aside(tmp_path / "link") as part:
            part.write_text("new")
        assert (tmp_path / "real").read_text() == "new" and (tmp_path / "link").is_symlink()

    def test_folders_and_pipes_are_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(Refused, match="no file that can be replaced"), write_aside(path):
                pass


def _hold(path, held, forks):
    with lock(path, wait=0):
        if forks and os.fork() == 0:
            time.sleep(5)  # outlives its parent, as a process that reads ahead may
            os._exit(0)
        held.set()
        time.sleep(60)


class TestLock:
    @pytest.mark.parametrize("forks", [False, True])
    def test_one_process_holds_it_and_a_kill_frees_it(self, tmp_path, forks):
        path, context = tmp_path / "lock", multiprocessing.get_context("fork")
        held = context.Event()
        other = context.Process(target=_hold, args=(path, held, forks))
        other.start()
        assert held.wait(30)
        with pytest.raises(TimeoutError, match="another process is at work there"), lock(path, wait=0.1):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        with lock(path, wait=0):
            with pytest.raises(TimeoutError), lock(path, wait=0):  # nor may this process have it twice
                pass
        assert os.listdir(tmp_path) == []

    def test_a_forked_child_leaves_it_to_its_parent(self, tmp_path):
        child = None
        with lock(tmp_path / "lock", wait=0):
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0 and os.listdir(tmp_path) == ["lock"]
        if child == 0:
            os._exit(0)
        assert os.listdir(tmp_path) == []

    def test_where_there_are_no_locks_this_goes_on_and_says_so(self, tmp_path, monkeypatch):
        import fcntl

        with lock(tmp_path / "lock", wait=0) as locked:
            assert locked

        def refuse(descriptor, operation):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with lock(tmp_path / "lock", wait=0) as locked:
            assert not locked


class TestUndisturbed:
    """Reading a folder while somebody replaces it."""

    @pytest.fixture
    def folder(self, tmp_path):
        self.write(tmp_path / "folder", "1")
        return tmp_path / "folder"

    def write(self, folder, text):
        with replace_folder(folder, lambda folder: ["a", "b"]) as part:
            (part / "a").write_text(text)
            (part / "b").write_text(text)

    @pytest.mark.parametrize("fails", [False, True])
    def test_what_was_read_of_two_folders_is_read_again(self, fails, folder):
        read = []

        def work(found):
            first = (found / "a").read_text()
            if not read:
                self.write(folder, "2")
            read.append((first, (found / "b").read_text()))
            if fails and len(read) == 1:
                raise ValueError("they do not fit")
            return read[-1]

        assert undisturbed(lambda: folder, work) == ("2", "2") and read[0] == ("1", "2")

    def test_what_fails_in_peace_fails_once(self, folder):
        calls = []

        def work(found):
            calls.append(found)
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            undisturbed(lambda: folder, work)
        with pytest.raises(ValueError, match="broken"):
            undisturbed(lambda: folder.with_name("nowhere"), work)
        assert len(calls) == 2
