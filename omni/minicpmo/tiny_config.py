"""The JSON files that say what a checkpoint is: published keys, tiny or published sizes."""

from collections.abc import Mapping
from typing import Any  # JSON documents

from tokenizers import Tokenizer

#: Numbers of config.json that the tiny checkpoint changes; the published ones stand in `PUBLISHED`.
Sizes = Mapping[str, Mapping[str, int]]

TINY: Sizes = {
    "llm": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "vision": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "audio": {
        "num_hidden_layers": 2,
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 256,
    },
    "tts": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}

PUBLISHED: Sizes = {
    "llm": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    },
    "audio": {
        "num_hidden_layers": 24,
        "d_model": 1024,
        "encoder_layers": 24,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
    },
    "tts": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 20,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
}


def tiny_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return config.json of the tiny checkpoint; the speech model has four text rows to spare."""
    vocab = tokenizer.get_vocab_size()
    text_rows = {
        "num_text_tokens": vocab + 4,
        "audio_bos_token_id": vocab + 1,
        "text_eos_token_id": vocab + 2,
    }
    return config_fields(TINY, tokenizer, text_rows)


def published_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return config.json at the published sizes; *tokenizer* should have 151,748 entries."""
    text_rows = {
        "num_text_tokens": 152064,
        "audio_bos_token_id": 151687,
        "text_eos_token_id": 151692,
    }
    return config_fields(PUBLISHED, tokenizer, text_rows)


def config_fields(
    sizes: Sizes, tokenizer: Tokenizer, text_rows: Mapping[str, int]
) -> dict[str, Any]:
    """Return config.json with *sizes*; *text_rows*: the table of the speech model and two ids."""
    language: dict[str, Any] = {
        "architectures": ["MiniCPMO"],
        "model_type": "minicpmo",
        "version": "4.5",
        "torch_dtype": "bfloat16",
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 40960,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-06,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": True,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": sizes["llm"]["num_hidden_layers"],
        "rope_scaling": None,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    return {
        **language,
        **sizes["llm"],
        **_SENSES,
        "vision_config": {**_VISION, **sizes["vision"]},
        "audio_config": {**_AUDIO, **sizes["audio"]},
        "tts_config": {**_tts(sizes), **text_rows, **sizes["tts"]},
    }


_SENSES: Mapping[str, Any] = {
    "query_num": 64,
    "image_size": 448,
    "drop_vision_last_layer": False,
    "batch_vision_input": True,
    "use_image_id": True,
    "vision_batch_size": 16,
    "slice_mode": True,
    "patch_size": 14,
    "slice_config": {
        "model_type": "minicpmv",
        "patch_size": 14,
        "max_slice_nums": 1,
        "scale_resolution": 448,
    },
    "audio_pool_step": 5,
    "audio_chunk_length": 1.0,
    "stream_input": True,
    "listen_speak_type": "asr",
    "init_vision": True,
    "init_audio": True,
    "init_tts": True,
}

_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "image_size": 980,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-06,
    "attention_dropout": 0.0,
}

_AUDIO: dict[str, Any] = {
    "model_type": "whisper",
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "scale_embedding": False,
}


def _tts(sizes: Sizes) -> dict[str, Any]:
    llm = sizes["llm"]
    return {
        "model_type": "minicpmtts",
        "llm_dim": llm["hidden_size"],
        "llm_hidden_size": llm["hidden_size"],
        "llm_intermediate_size": 768,
        "llm_down_scale": False,
        "llm_dim_model_base": 256,
        "projector_type": "mlp",
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "num_audio_tokens": 6562,
        "num_mel_bins": 100,
        "num_vq": 1,
        "use_llm_hidden_state": False,
        "use_text": True,
        "streaming": True,
        "streaming_text_chunk_min": 3,
        "streaming_text_chunk_max": 7,
        "streaming_text_reserved_len": 300,
        "streaming_audio_chunk_size": 50,
        "attn_implementation": "sdpa",
        "condition_type": "hidden_text_merge",
        "backbone_model": "llama",
        "audio_tokenizer_type": "s3tokenizer",
        "audio_tokenizer_sample_rate": 16000,
        "streaming_sliding_window": False,
        "streaming_sliding_window_audio_window_size": 300,
        "normalize_projected_hidden": True,
        "interleaved": False,
        "attention_type": "full_attention",
        "recomputed_chunks": 1,
        "window_size": 2,
        "s3_stream_chunk_size": 25,
        "s3_stream_prelook_size": 3,
        "s3_stream_n_timesteps": 10,
        "s3_stream_generate": False,
        "top_p": 0.85,
        "top_k": 25,
        "repetition_penalty": 1.05,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return generation_config.json. The engine takes nothing from it."""
    end_of_text = tokenizer.token_to_id("<|endoftext|>")
    return {
        "bos_token_id": end_of_text,
        "do_sample": True,
        "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), end_of_text],
        "pad_token_id": end_of_text,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def preprocessor_config() -> dict[str, Any]:
    """Return preprocessor_config.json: the image processor's values."""
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "feature_extractor_type": "MiniCPMAAudioProcessor",
        "processor_class": "MiniCPMOProcessor",
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": 14,
        "use_image_id": True,
        "image_feature_size": 64,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "slice_mode": True,
        "audio_pool_step": 5,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 4.5,
    }
