"""The list of models: what was asked for at launch is what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm import INFO, Client, check, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("models", concurrent=True)


@check("models.list.shape", ref="M01", catches=("models-object-wrong",))
def test_shape(vllm: Client) -> None:
    """`GET /v1/models` MUST list at least one model in the shape that the SDK reads."""
    entries = vllm.models()
    assert entries
    for entry in entries:
        assert entry["object"] == "model"


@check("models.ids.unique", ref="M02", catches=("models-duplicate",))
def test_unique(vllm: Client) -> None:
    """No two models MUST have the same ID."""
    ids = [entry["id"] for entry in vllm.models()]
    assert len(ids) == len(set(ids))


@check("models.ids.as-launched", ref="M02")
def test_ids(vllm: Client, vllm_target: Target) -> None:
    """The IDs MUST be the names that were asked for at launch, and no others but adapters."""
    ids = {entry["id"] for entry in vllm.models()}
    launched = vllm_target.serve_args.served_names or (vllm.server.launch_model,)
    asked = {name for name in launched if name}
    assert asked <= ids
    if asked and not vllm_target.serve_args.has("--lora-modules"):
        assert ids == asked


@check("models.max-model-len.as-launched", ref="M03")
def test_max_model_len(vllm: Client, vllm_target: Target) -> None:
    """`max_model_len` MUST be the context length that was asked for at launch."""
    entry = next(entry for entry in vllm.models() if entry["id"] == vllm.model)
    length = entry["max_model_len"]
    assert length > 0
    assert length == (vllm_target.serve_args.max_model_len or length)


@check("models.root.as-launched", ref="M04")
def test_root(vllm: Client) -> None:
    """`root` MUST be the model that the server was told to load: these are the right weights."""
    entry = next(entry for entry in vllm.models() if entry["id"] == vllm.model)
    if vllm.server.launch_model:
        assert entry["root"].rstrip("/") == vllm.server.launch_model.rstrip("/")


@check(
    "models.ids.are-usable",
    ref="M05",
    catches=(
        "model-id-unusable",
        "model-rewritten",
    ),
)
def test_usable(vllm: Client) -> None:
    """Each listed ID MUST work in a request and come back as `model`."""
    for entry in vllm.models():
        seen = vllm.complete("Hello", max_tokens=1, model=entry["id"]).json["model"]
        # Of several names for one model, vLLM answers with the first (0.32); an adapter has its
        # own name, and names the model below it as its parent.
        assert seen in ((entry["id"],) if entry.get("parent") else (entry["id"], vllm.model))


@check("models.root.is-told", ref="M04", catches=("model-root-missing",))
def test_root_told(vllm: Client) -> None:
    """`root` MUST say which model runs, also to those who did not launch it."""
    for entry in vllm.models():
        assert entry.get("root"), entry["id"]


@check("models.retrieve.status", level=INFO, ref="M06")
def test_retrieve(vllm: Client) -> None:
    """What `GET /v1/models/{id}` of the SDK's `models.retrieve` gets is noted."""
    vllm.observe("models.retrieve.status", vllm.get(f"/v1/models/{vllm.model}").status)


@check("models.created.is-stable", level=INFO, ref="M07")
def test_created(vllm: Client) -> None:
    """Whether `created` is a time of the model, or of the request, is noted."""
    first, second = ([entry["created"] for entry in vllm.models()] for _ in range(2))
    vllm.observe("models.created.is-stable", first == second)
