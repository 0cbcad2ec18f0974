"""What the tests of this folder share."""

import pytest


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """The folder of the small archives."""
    # Here, not above: assertions of a test module are not rewritten once it has been imported.
    from reptile_jax.data.omniglot_archive_test import members, write_zip
    from reptile_jax.data.omniglot_test import ARCHIVES

    folder = tmp_path_factory.mktemp("archives")
    for seed, archive in enumerate(ARCHIVES.values()):
        write_zip(folder / archive.file_name, members(archive, seed))
    return folder
