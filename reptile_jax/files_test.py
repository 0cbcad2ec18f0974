import errno
import fcntl
import os

import pytest

from reptile_jax.files import LockedError, lock


def test_a_lock_is_held_by_one_and_then_by_another(tmp_path):
    refused = pytest.raises(LockedError, match=f"process {os.getpid()} on ")
    with lock(tmp_path / ".lock"), refused, lock(tmp_path / ".lock"):
        pass
    with lock(tmp_path / ".lock"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_file_system_has_no_locks_there_is_none(tmp_path, capsys, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(tmp_path / ".lock"):
        assert capsys.readouterr().err == (
            f"{tmp_path}: the file system has no locks: do not start another run there\n"
        )
    number = errno.EIO
    with pytest.raises(OSError, match="error"), lock(tmp_path / ".lock"):
        pass
