"""A tiny vision-language model, its processor and pictures, all made in memory."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile

import tiny
import tiny_chat
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)

IMAGE_SIDE, PATCH_SIDE = 4, 2


def processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIDE},
            crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
            return_tensors="pt",  # TRL's tool loop cannot take a list of images apart
        ),
        tokenizer=tiny_chat.tokenizer(),
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tiny_chat.CHAT_TEMPLATE,
        image_token=tiny_chat.IMAGE_TOKEN,
    )


def model() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(_saved_model(), dtype=torch.float32)


@functools.cache
def _saved_model() -> str:
    torch.manual_seed(0)
    tokenizer = tiny_chat.tokenizer()
    layers = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **layers, projection_dim=16, image_size=IMAGE_SIDE, patch_size=PATCH_SIDE
        ),
        text_config=Qwen2Config(
            **layers,
            num_key_value_heads=1,
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            pad_token_id=tiny.PAD,
            eos_token_id=tiny.EOS,
            bos_token_id=None,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(tiny_chat.IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIDE // PATCH_SIDE) ** 2,
        vision_feature_layer=-1,
        pad_token_id=tiny.PAD,
        eos_token_id=tiny.EOS,
    )
    folder = tempfile.mkdtemp(prefix="trl_lambda_tiny_vision_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def image(shade: int) -> Image.Image:
    """A slope, so that its patches differ: a plain colour is the same everywhere."""
    pixels = [(shade, 40 * (i % IMAGE_SIDE), 255 - shade) for i in range(IMAGE_SIDE**2)]
    picture = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE))
    picture.putdata(pixels)
    return picture
