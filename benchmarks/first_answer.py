"""How long a checkpoint takes to its first answer, from Python's start on, beside transformers alone on the same language model.

    python benchmarks/first_answer.py CHECKPOINT [--node 17] [--repeats 3]

Every measurement is a process of its own, since imports are most of it; files are in the page cache from the second on.
"""

import argparse
import json
import subprocess
import sys

OURS = """
import json, sys, time
begun = time.perf_counter()
from graphgpt import GraphAssistant
GraphAssistant
imported = time.perf_counter()
assistant = GraphAssistant.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
next(assistant.ask("What is this about?", node=int(sys.argv[2]), stream=True))
spoken = time.perf_counter()
assistant.classify(node=int(sys.argv[2]))
print(json.dumps({"import": imported - begun, "from_pretrained": loaded - imported, "first word": spoken - loaded,
                  "a class": time.perf_counter() - spoken}))
"""

PLAIN = """
import json, sys, time
begun = time.perf_counter()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoModelForCausalLM
imported = time.perf_counter()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
loaded = time.perf_counter()
generate(model, **tokenizer("What is this about? " * 60, return_tensors="pt"), max_new_tokens=1, do_sample=False)
print(json.dumps({"import": imported - begun, "from_pretrained": loaded - imported, "first word": time.perf_counter() - loaded}))
"""


def measured(program: str, *arguments: str) -> dict[str, float]:
    """What a program's last line says, in seconds."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    from graphgpt.checkpoints.folder import find_checkpoint, read_manifest
    from graphgpt.models.llm import LLMConfig, model_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--node", default="17")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    llm = LLMConfig(**read_manifest(find_checkpoint(options.checkpoint))["model"]["llm"])
    base = str(model_folder(llm, download=False) or llm.path)
    for _ in range(options.repeats):
        for name, found in (("ours", measured(OURS, options.checkpoint, options.node)), ("transformers alone", measured(PLAIN, base))):
            answered = found["import"] + found["from_pretrained"] + found["first word"]
            print(
                f"{name:20}"
                + "".join(f"{part} {seconds:.1f} s   " for part, seconds in found.items())
                + f"to the first word {answered:.1f} s"
            )


if __name__ == "__main__":
    main()
