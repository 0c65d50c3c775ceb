"""Makes the inputs of gpu-bench: a tokenizer and a configuration of 7B parameters (the weights are random), and three sets of
rows: `uniform` (128 tokens out), `heavy` (log-normal lengths, mean about 167, at most 1,500) and `short` (4 tokens out).

    inputs.py FOLDER [SCALE]    SCALE multiplies the numbers of rows, 1 by default
"""

import json
import pathlib
import random
import sys

ROWS = {"uniform": (4000, (60, 240)), "heavy": (4000, (60, 240)), "short": (12000, (20, 60))}  # rows, words of a row
VOCABULARY = 32000
CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": VOCABULARY,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.02,
}
CHAT_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def made_up_words(random_source, count):
    """Distinct pronounceable words, so that a tokenizer trained on them has tokens of several letters."""
    words = set()
    while len(words) < count:
        syllables = random_source.randint(1, 4)
        words.add("".join(random_source.choice("bcdfghklmnprstvw") + random_source.choice("aeiou") for _ in range(syllables)))
    return sorted(words)


def make_model(folder, words):
    """Writes a tokenizer and the configuration that vLLM needs for `--load-format dummy`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join(words[at : at + 100]) for at in range(0, len(words), 100)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=8192,
    )
    # The random model gives any token, and a server fails on one that its tokenizer does not have.
    fast.add_tokens([f"<unused{at}>" for at in range(VOCABULARY - len(fast))])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    generation = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def make_rows(path, random_source, words, count, lengths, tokens):
    """Writes `count` rows of `lengths` words, each with its own number of tokens to generate."""
    with path.open("w") as out:
        for at in range(count):
            text = " ".join(random_source.choices(words[:3000], k=random_source.randint(*lengths)))
            out.write(json.dumps({"id": f"p{at}", "prompt": f"[{at}] {text}", "max_tokens": tokens()}) + "\n")


def main():
    folder, scale = pathlib.Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    random_source = random.Random(11)
    words = made_up_words(random_source, 60000)
    random_source.shuffle(words)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {
        "uniform": lambda: 128,
        "heavy": lambda: max(8, min(1500, int(random_source.lognormvariate(4.7, 0.9)))),
        "short": lambda: 4,
    }
    for name, (count, lengths) in ROWS.items():
        path = folder / f"{name}.jsonl"
        make_rows(path, random_source, words, max(20, int(count * scale)), lengths, tokens[name])
    if not (folder / "model" / "config.json").exists():
        make_model(folder / "model", words)


if __name__ == "__main__":
    main()
