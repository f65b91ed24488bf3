"""An answer as it is written, token by token."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from graphgpt.models.decoding import Decoding
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.processor import Example, Processor

#: What a tokenizer makes of a character of which some bytes are still to come.
UNFINISHED = "\ufffd"


def write_answer(
    model: MultimodalLLM,
    processor: Processor,
    prompt: Example,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    turn: AbstractContextManager[object],
) -> Iterator[str]:
    """The pieces of an answer; joined, and greedily, the text of ``MultimodalLLM.generate``: without special tokens and space around it.

    Args:
        model: In eval mode.
        processor: The model's.
        prompt: Tokenised.
        max_new_tokens: The answer is cut after so many tokens.
        temperature: 0 takes the likeliest token each time; above that, tokens are drawn from the softmax of logits / temperature.
        seed: Of the draw.
        turn: Entered for every token, not for the whole answer, so that several callers can take turns at one model.
    """
    draw = torch.Generator().manual_seed(seed)
    decoding, written, said = None, list[int](), ""
    for _ in range(max_new_tokens):
        with turn, torch.inference_mode():
            if decoding is None:
                decoding = Decoding(model, [prompt])
            else:
                decoding.write([0], written[-1:])
            logits = decoding.logits[0]
            if temperature > 0:
                token = int(torch.multinomial((logits.cpu() / temperature).softmax(dim=0), 1, generator=draw))
            else:
                token = int(logits.argmax())
            if token in processor.ends:
                break
            written.append(token)
            # All of it each time: what a token spells depends on those before it.
            text, ended = processor.written(written, more=True)
            if ended:
                break
        if text.startswith(said) and len(text) > len(said) and not text.endswith(UNFINISHED):
            yield text[len(said) :]
            said = text
    with turn:
        rest = processor.written(written)[0][len(said) :]
    if rest:
        yield rest
