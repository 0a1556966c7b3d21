"""What a rank may take of the GPUs that a monitor saw."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.devices import mark_shared, socket_of, usable_devices

GPUS = st.lists(
    st.fixed_dictionaries(
        {
            "bdf": st.sampled_from(
                ["", "0000:05:00.0", "0000:05:00.1", "0000:05:00.7", "0001:05:00.0", "rubbish"]
            ),
            "vram_total_bytes": st.one_of(st.none(), st.integers(0, 2**40)),
            "vram_used_bytes": st.one_of(st.none(), st.integers(0, 2**41)),
        },
        optional={
            "hip_index": st.one_of(st.none(), st.integers(0, 16)),
            "hip_total_bytes": st.one_of(st.none(), st.integers(0, 2**40)),
            "name": st.text(max_size=5),
        },
    ),
    max_size=10,
)


@given(GPUS)
def test_no_memory_is_given_out_twice(gpus: list[dict[str, Any]]) -> None:
    """Whatever a monitor tells: the ranks on one package never get more than it has."""
    numbered = [{"index": index, **gpu} for index, gpu in enumerate(gpus)]
    devices = usable_devices({"gpus": mark_shared(numbered)})
    for socket in {socket_of(device.bdf) for device in devices if device.bdf}:
        there = [d for d in devices if socket_of(d.bdf) == socket]
        whole = [gpu["vram_total_bytes"] or 0 for gpu in gpus if socket_of(gpu["bdf"]) == socket]
        assert sum(device.total_bytes for device in there) <= max(whole)
    assert all(0 <= device.free_bytes <= device.total_bytes for device in devices)
    assert len(devices) == sum(bool(gpu["vram_total_bytes"]) for gpu in gpus)


def test_a_whole_gpu_is_as_large_as_its_driver_says() -> None:
    gpu = {"bdf": "0000:05:00.0", "vram_total_bytes": 100, "vram_used_bytes": 30}
    (device,) = usable_devices({"gpus": [gpu | {"hip_total_bytes": 90}]})
    assert (device.total_bytes, device.free_bytes) == (100, 70)


def test_hips_order_counts_only_when_it_is_known_of_all() -> None:
    def gpu(bdf: str, hip: int | None) -> dict[str, Any]:
        return {"bdf": bdf, "vram_total_bytes": 1, "hip_index": hip}

    known = usable_devices({"gpus": [gpu("a.0", 1), gpu("b.0", 0)]})
    assert [device.bdf for device in known] == ["b.0", "a.0"]
    partly = usable_devices({"gpus": [gpu("a.0", 1), gpu("b.0", None)]})
    assert [device.bdf for device in partly] == ["a.0", "b.0"]


def test_facts_without_gpus_give_no_device() -> None:
    assert usable_devices({"monitor": "none", "gpus": []}) == ()
    assert usable_devices({}) == ()
