"""What Dask's setting of the allocator costs, and that undoing it ends that."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

COUNT_FAULTS = textwrap.dedent(
    """
    import resource
    import numpy as np
    from zml_dask.allocator import keep_freed_buffers
    from zml_dask.store.shards import ShardBuilder
    from zml_dask.store.layout import ImageShape, image_arrays

    def faults_of_an_encoding():
        builder = ShardBuilder(image_arrays(ImageShape())[0], (80, 80))
        before = 0
        for number in range(40):
            if number == 8:  # the first ones fill the heap
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            builder.room[...] = number
            builder.advance(64)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    print(faults_of_an_encoding(), keep_freed_buffers(), faults_of_an_encoding())
    """
)


def _faults(threshold: str | None) -> tuple[int, bool, int]:
    environment = {name: text for name, text in os.environ.items() if "MALLOC" not in name}
    if threshold is not None:
        environment["MALLOC_TRIM_THRESHOLD_"] = threshold
    command = [sys.executable, "-c", COUNT_FAULTS]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, undone, after = ran.stdout.split()
    return int(before), undone == "True", int(after)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Dask sets glibc's allocator")
def test_a_worker_s_buffers_are_not_mapped_anew_for_every_chunk() -> None:
    before, undone, after = _faults("65536")
    assert undone
    assert after < before / 10


@pytest.mark.parametrize("threshold", [None, "1000000"])
def test_what_somebody_set_on_purpose_is_left_alone(threshold: str | None) -> None:
    assert not _faults(threshold)[1]
