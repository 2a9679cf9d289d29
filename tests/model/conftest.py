import inspect
import json
import statistics
import textwrap

import pytest

from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def texts():
    return [inspect.getsource(module) for module in (statistics, textwrap, json)]


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, TokenizerConfig(train_on=("stdlib",), vocab_size=512))


@pytest.fixture
def trained_directory(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def foreign(trained_directory):
    """A tokenizer with a chat template of its own."""
    tokenizer = load_tokenizer(trained_directory)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]:{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]:{% endif %}"
    )
    return tokenizer


@pytest.fixture
def gpt2_directory(texts, tmp_path):
    """vocab.json and merges.txt of a byte-level BPE, as GPT-2 was published."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    (tmp_path / "gpt2").mkdir()
    backend.model.save(str(tmp_path / "gpt2"))
    return tmp_path / "gpt2"


@pytest.fixture
def plain_tokenizer_directory(tmp_path):
    """A tokenizer of a base model: an end-of-text token, no roles, padding or template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    plain.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"
