"""Sound of any length, cut into the chunks that a session has agreed on."""

from attrs import define, evolve, field

from omni.audio import INPUT_HZ
from omni.engine import AudioChunk, Buffer

_FLOAT32_BYTES = 4
#: Pictures kept for the next chunk; the oldest go. What a chunk of `/ws/duplex` may carry.
MAX_FRAMES = 32


@define
class UnitCutter:
    """Cuts what a client sends into chunks of *size_bytes*; the rest waits for more.

    Pictures go with the next chunk that is complete. A wish to be listened to holds for the chunk
    in which its sound ends up, whatever else is in that chunk.
    """

    size_bytes: int
    _pcm: bytearray = field(factory=bytearray, init=False)
    _waiting: AudioChunk = field(factory=lambda: AudioChunk(pcm=Buffer(b"")), init=False)

    @classmethod
    def of(cls, chunk_ms: int) -> "UnitCutter":
        """Return a cutter for chunks of *chunk_ms*."""
        return cls(INPUT_HZ * chunk_ms // 1000 * _FLOAT32_BYTES)

    def push(self, piece: AudioChunk) -> list[AudioChunk]:
        """Return the chunks that *piece* completes; there may be none, or many."""
        self._pcm += piece.pcm
        waiting = self._waiting
        self._waiting = evolve(
            waiting,
            frames=(*waiting.frames, *piece.frames)[-MAX_FRAMES:],
            force_listen=waiting.force_listen or piece.force_listen,
            max_slice_nums=piece.max_slice_nums or waiting.max_slice_nums,
        )
        chunks = []
        while len(self._pcm) >= self.size_bytes:
            chunks.append(evolve(self._waiting, pcm=Buffer(bytes(self._pcm[: self.size_bytes]))))
            del self._pcm[: self.size_bytes]
            self._waiting = AudioChunk(
                pcm=Buffer(b""), force_listen=piece.force_listen and bool(self._pcm)
            )
        return chunks
