"""What clients put into a message -> what the prompt and the encoders take.

Reading is plain CPU work on bytes of strangers: it runs beside the engine (`Aside`), and whatever
is wrong with a part is told with its place. Encoding (`embedded`) is the engine's.
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

import numpy as np
from attrs import define, field, frozen

from omni import engine
from omni.audio import Waveform, waveform_from_float32
from omni.errors import ClientError
from omni.minicpmo.images import SlicedImage, decode_image, mosaic, slice_image
from omni.minicpmo.mel import HOP_SAMPLES
from omni.minicpmo.model.audio_encoder import num_embeddings
from omni.minicpmo.prompt import AudioPart, ImagePart, Message, Part, Prompt, Role
from omni.minicpmo.video import read_video
from omni.minicpmo.work import EncodeAudio, EncodeImages
from omni.minicpmo.work import Part as FedPart
from omni.minicpmo.work import Program, done, filled

#: Slices of a picture where the request does not say; the published default of chat.
MAX_IMAGE_SLICES = 9
#: Slices of a video's pictures where the request does not say: 64 sliced ones would be 41,000
#: tokens. The published pages ask for the same.
MAX_VIDEO_SLICES = 1
_FRAMES_AN_EMBEDDING = 10  # mel frames; config.json: the encoder's stride 2, audio_pool_step 5

#: Pictures and slices of one request. A context holds 620; read, each takes 600 kB.
MAX_SLICES = 1024

NO_SOUND = np.zeros(0, dtype=np.float32)


@define
class SliceRoom:
    """How many more pictures and slices a request may have: a picture of one pixel is 100 bytes."""

    num_left: int = MAX_SLICES

    def take(self, image: SlicedImage) -> SlicedImage:
        """Return *image*. Raises: ClientError, where there is no room for it."""
        self.num_left -= len(image.patches)
        if self.num_left < 0:
            raise ClientError(
                f"more than {MAX_SLICES} pictures and slices of pictures in one request: send "
                "fewer, or smaller ones"
            )
        return image


@frozen(kw_only=True)
class MediaOptions:
    """How media are read. max_slices: of a picture; None: by kind. hears_videos: take their sound
    as well, between the pictures; else the pictures alone. room: what all that is read with these
    options shares.
    """

    max_slices: int | None = None
    hears_videos: bool = False
    room: SliceRoom = field(factory=SliceRoom)


@frozen(kw_only=True, eq=False)
class Content:
    """One message, read. sound: all its recordings end to end (16 kHz), as they are encoded.

    tool_calls: of an assistant, behind its parts.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[engine.ToolCall, ...] = ()
    images: tuple[SlicedImage, ...] = ()
    sound: Waveform = field(default=NO_SOUND, repr=False)

    @property
    def message(self) -> Message:
        """The message as the prompt takes it."""
        return Message(role=self.role, parts=self.parts, tool_calls=self.tool_calls)

    @property
    def num_audio_tokens(self) -> int:
        """Places that the prompt keeps for the sound."""
        return sum(part.num_tokens for part in self.parts if isinstance(part, AudioPart))


def read_message(
    role: Role, parts: Sequence[engine.Part], options: MediaOptions, place: str = "content"
) -> Content:
    """Return *parts* read. Raises: ClientError, which names the part within *place*."""
    pieces: list[str | SlicedImage | Waveform] = []
    for index, part in enumerate(parts):
        try:
            pieces += _read(part, options)
        except ClientError as exc:
            raise ClientError(f"{place}[{index}] ({part.kind}): {exc}") from exc
    sounds = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    return Content(
        role=role,
        parts=tuple(_prompt_part(piece) for piece in pieces),
        images=tuple(piece for piece in pieces if isinstance(piece, SlicedImage)),
        sound=joined(sounds),
    )


def num_audio_tokens(num_samples: int) -> int:
    """Return the embeddings of a recording at 16 kHz: ten a second."""
    return num_embeddings(-(-num_samples // HOP_SAMPLES))


def joined(sounds: Sequence[Waveform]) -> Waveform:
    """Return the recordings of one message end to end, which is how they are encoded.

    Each has places of its own in the prompt; silence is added where the whole would give fewer
    embeddings than they have together.
    """
    if not sounds:
        return NO_SOUND
    count = sum(num_audio_tokens(len(sound)) for sound in sounds)
    least = ((_FRAMES_AN_EMBEDDING * count - 2) * HOP_SAMPLES + 1) if count else 0
    whole = np.concatenate(sounds)
    return np.pad(whole, (0, max(0, least - len(whole))))


def embedded(
    prompt: Prompt, contents: Sequence[Content], sees_all: bool = False
) -> Program[list[FedPart]]:
    """Return *prompt*, written of *contents*, with their pictures and sounds encoded.

    sees_all: every moment of a sound sees all of it (half duplex), else its second and the past.
    """
    images = [image for content in contents for image in content.images]
    heard = [content for content in contents if content.num_audio_tokens]
    image_embeds, sounds = None, []
    if images:
        image_embeds = yield from done(EncodeImages(images=images))
    if heard:
        recordings = [content.sound for content in heard]
        encoded = yield from done(EncodeAudio(recordings=recordings, sees_all=sees_all))
        sounds = [
            embeds[: content.num_audio_tokens]
            for embeds, content in zip(encoded, heard, strict=True)
        ]
    return filled(prompt, image_embeds, sounds)


def _read(part: engine.Part, options: MediaOptions) -> Iterator[str | SlicedImage | Waveform]:
    match part.kind:
        case "text":
            yield part.text
        case "image":
            most = options.max_slices or MAX_IMAGE_SLICES
            yield options.room.take(slice_image(decode_image(bytes(part.data)), most))
        case "audio":
            samples = waveform_from_float32(part.data)
            if not len(samples):
                raise ClientError("there are no samples in it")
            yield samples
        case "video":
            yield from _read_video(part, options)
        case _:
            assert_never(part.kind)


def _read_video(
    part: engine.Part, options: MediaOptions
) -> Iterator[SlicedImage | Waveform]:
    most = options.max_slices or MAX_VIDEO_SLICES
    for segment in read_video(bytes(part.data), part.stack_frames):
        yield options.room.take(slice_image(segment.picture, most))
        if segment.sound is not None and options.hears_videos:
            yield segment.sound
        if segment.between:
            yield options.room.take(slice_image(mosaic(segment.between), most))


def _prompt_part(piece: str | SlicedImage | Waveform) -> Part:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, SlicedImage):
        return ImagePart(grid=piece.grid)
    return AudioPart(num_tokens=num_audio_tokens(len(piece)))
