"""Tokens that a session took in and gave out, summed up as R2 tells them."""

from attrs import define, frozen

from omni.engine import ChatDone, Prepared, UnitResult


@frozen(kw_only=True)
class Usage:
    """Tokens by kind. Speech tokens count as sound that was given out."""

    text_in: int = 0
    audio_in: int = 0
    image_in: int = 0
    text_out: int = 0
    audio_out: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            text_in=self.text_in + other.text_in,
            audio_in=self.audio_in + other.audio_in,
            image_in=self.image_in + other.image_in,
            text_out=self.text_out + other.text_out,
            audio_out=self.audio_out + other.audio_out,
        )

    @classmethod
    def of_prompt(cls, prepared: Prepared) -> "Usage":
        """Return what the preparation of a session took in."""
        audio_in = prepared.audio_tokens
        return cls(text_in=prepared.prompt_length - audio_in, audio_in=audio_in)

    @classmethod
    def of_unit(cls, result: UnitResult) -> "Usage":
        """Return what one unit took in and gave out."""
        return cls(
            text_in=result.text_tokens,
            audio_in=result.audio_tokens,
            image_in=result.vision_tokens,
            text_out=result.n_tokens or 0,
            audio_out=result.n_tts_tokens or 0,
        )

    @classmethod
    def of_chat(cls, done: ChatDone) -> "Usage":
        """Return what one chat turn took in and gave out."""
        media = done.input_audio_tokens + done.input_image_tokens
        return cls(
            text_in=max(0, done.input_tokens - media),
            audio_in=done.input_audio_tokens,
            image_in=done.input_image_tokens,
            text_out=done.generated_tokens,
            audio_out=done.speech_tokens,
        )

    def as_fields(self) -> dict[str, object]:
        """Return it as R2's `usage`; `vision_tokens` is the SDK's word for pictures."""
        tokens_in = self.text_in + self.audio_in + self.image_in
        tokens_out = self.text_out + self.audio_out
        return {
            "total_tokens": tokens_in + tokens_out,
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "input_token_details": {
                "text_tokens": self.text_in,
                "audio_tokens": self.audio_in,
                "image_tokens": self.image_in,
                "vision_tokens": self.image_in,
                "video_tokens": 0,
                "cached_tokens": 0,
            },
            "output_token_details": {"text_tokens": self.text_out, "audio_tokens": self.audio_out},
        }


@define
class Counter:
    """Sums up. total: of the session; index: how many units or turns were counted."""

    total: Usage = Usage()
    index: int = 0

    def add(self, usage: Usage) -> dict[str, object]:
        """Count one unit or turn, and return the fields that tell it."""
        self.total += usage
        self.index += 1
        return {
            "usage": self.total.as_fields(),
            "chunk_usage": usage.as_fields(),
            "chunk_index": self.index,
        }
