#!/usr/bin/env python3
"""Makes a language model small enough for a test: tokenizer, chat template, random weights.

    tiny_model.py FOLDER

Nothing is fetched: the tokenizer is trained on modules of Python's standard library, which are half English and half
code, and the weights come from a seeded generator. What the model says is noise, but it is the same noise for the same
prompt, and all of vLLM takes part in saying it.
"""
import importlib.util
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

VOCABULARY = 2048
CONTEXT = 4096  # what the positions reach; the server is started with less
START, TURN, END = "<|start|>", "<|turn|>", "<|end|>"

MODULES = (
    "argparse csv datetime difflib doctest functools heapq http.client inspect optparse pickle random shutil socket "
    "statistics string subprocess tarfile textwrap threading typing urllib.request zipfile"
)

# One line a turn: <|turn|>role: text<|end|>
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|turn|>' + message['role'] + ': ' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|turn|>assistant: ' -}}{%- endif -%}"
)


def sentences():
    for name in MODULES.split():
        found = importlib.util.find_spec(name)
        if found is not None and found.origin:
            with open(found.origin, encoding="utf-8") as file:
                yield from file.read().splitlines()
    yield "Grüße, naïve café, żółć, Ελληνικά, русский, 日本語, 한국어, 🙂 – “quotes” … ½ €"


def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(sentences(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=START, eos_token=END, pad_token=START, model_max_length=CONTEXT
    )
    fast.chat_template = TEMPLATE
    return fast


def main():
    folder = sys.argv[1]
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # the smallest head that vLLM's attention on a CPU knows
        max_position_embeddings=CONTEXT,
        bos_token_id=words.convert_tokens_to_ids(START),
        eos_token_id=words.convert_tokens_to_ids(END),
        pad_token_id=words.convert_tokens_to_ids(START),
        tie_word_embeddings=False,
        initializer_range=0.2,  # wide, so that the likeliest token stands clear of the next
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    model.save_pretrained(folder)


main()
