"""The one model that a server has, as `/v1/models` names it."""

#: The published name of the model that the `minicpmo` engine runs.
MINICPMO_ID = "MiniCPM-o-4_5"


def model_id(engine: str) -> str:
    """Return the id of the model that *engine* runs."""
    return MINICPMO_ID if engine == "minicpmo" else f"omni-{engine}"


def model_object(engine: str, created: int) -> dict[str, object]:
    """Return the model as OpenAI lists it. created: Unix seconds."""
    return {
        "id": model_id(engine),
        "object": "model",
        "created": created,
        "owned_by": "openbmb" if engine == "minicpmo" else "omni",
    }
