"""The MiniCPM-o 4.5 engine: the published checkpoint, many sessions in one batch.

checkpoint              files -> modules on a device; fetch, hubs, transfer bring the files
loading, setup          all files side by side; an engine with its caches; load_times
tokenizer, prompt       text <-> ids; messages -> ids with places for embeddings; system_prompts
images, video, mel      pictures, files and sound -> what the encoders take
hearing, seeing         seconds of sound of many slots, pictures -> embeddings
kv_cache                pages, plans, roll-back, windows
staging, graphs         inputs in one copy; steps of fixed shape, recorded as CUDA graphs
sampling                logits -> text tokens; code_sampling: -> speech codes
speech_codes            spoken text -> codes; token2wav: codes -> sound; voice: reference recordings
model                   the modules: tensors only
tiny_checkpoint         the same layout, tiny and seeded, for tests and for trying things out
"""

import time

#: When the first module of the engine was asked for, by time.monotonic().
IMPORT_BEGUN_S = time.monotonic()
