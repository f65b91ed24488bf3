"""What other tools call the settings that we call otherwise."""

from graphgpt.files.configs import config_groups

_STEPS = ("runner.max_steps", "training is counted in steps, or by runner.epochs in passes over the data")
_EPOCHS = ("runner.epochs", "from which the steps are worked out")
_BATCH = ("runner.global_batch_size", "what does not fit at once is accumulated, see runner.micro_batch_size")
_RATE = ("runner.lr.projector", "and runner.lr.lora for adapters, runner.lr.tower for a tower")
_LENGTH = ("model.max_length", "")
_RANK = ("model.lora.rank", "")

#: The last part of a key that we do not know: our key, and what is otherwise about it.
WORDS: dict[str, tuple[str, str]] = {
    # How long, how much at once
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "max_epochs", "train_epochs", "n_epochs"), _EPOCHS),
    **dict.fromkeys(("steps", "num_steps", "train_steps", "max_train_steps", "total_steps", "num_training_steps"), _STEPS),
    **dict.fromkeys(("batch_size", "train_batch_size", "per_device_train_batch_size", "per_gpu_batch_size", "bs"), _BATCH),
    **dict.fromkeys(("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum", "accumulation_steps"), _BATCH),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "cutoff_len", "model_max_length", "seq_length", "context_length"), _LENGTH),
    # Optimizer
    **dict.fromkeys(("lr", "learning_rate", "base_lr", "peak_lr", "init_lr"), _RATE),
    **dict.fromkeys(("warmup_ratio", "warmup_steps", "num_warmup_steps"), ("runner.warmup", "a share of the steps")),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "scheduler"), ("runner.schedule", "")),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val", "grad_clip", "clip_grad_norm"), ("runner.clip", "")),
    **dict.fromkeys(("weight_decay", "wd"), ("runner.optimizer.weight_decay", "")),
    "optim": ("runner/optimizer", ""),
    # Adapters
    **dict.fromkeys(("r", "lora_r", "lora_rank"), _RANK),
    "lora_alpha": ("model.lora.alpha", ""),
    "lora_dropout": ("model.lora.dropout", ""),
    **dict.fromkeys(("target_modules", "lora_target", "lora_target_modules"), ("model.lora.targets", "")),
    "use_rslora": ("model.lora.rslora", ""),
    "use_dora": ("model.lora.dora", ""),
    # The machine
    **dict.fromkeys(("device", "device_type"), ("runner.accelerator", "")),
    **dict.fromkeys(("gpus", "num_gpus", "n_gpu", "nproc_per_node"), ("runner.devices", "with runner/strategy=ddp or such")),
    "nnodes": ("runner.num_nodes", ""),
    **dict.fromkeys(("bf16", "fp16", "mixed_precision", "amp", "tf32"), ("runner.precision", "bf16, bf16-mixed or 16-mixed")),
    **dict.fromkeys(("num_workers", "dataloader_num_workers"), ("runner.workers", "")),
    **dict.fromkeys(("num_threads", "n_jobs"), ("runner.threads", "")),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantize"), ("model/quantization", "nf4 or int8")),
    **dict.fromkeys(("torch_dtype",), ("model.llm.dtype", "")),
    # Where things are, what is kept
    **dict.fromkeys(("output_dir", "save_dir", "default_root_dir", "out_dir", "log_dir"), ("hydra.run.dir", "runs/NAME/DATE unless given")),
    **dict.fromkeys(("run_name", "exp_name", "experiment_name"), ("name", "")),
    **dict.fromkeys(("seed_everything", "random_seed", "manual_seed"), ("seed", "")),
    **dict.fromkeys(("resume_from_checkpoint", "ckpt_path", "resume_from", "resume_path"), ("resume", "")),
    **dict.fromkeys(("pretrained", "init_from_checkpoint", "load_from", "start", "stage1"), ("start_from", "")),
    **dict.fromkeys(("save_steps", "save_every", "save_interval"), ("runner.checkpoint.every_n_steps", "")),
    **dict.fromkeys(("save_total_limit", "save_top_k"), ("runner.checkpoint.keep", "")),
    **dict.fromkeys(("eval_steps", "eval_every", "val_check_interval", "check_val_every_n_epoch"), ("runner.val_every", "in steps")),
    **dict.fromkeys(("logging_steps", "log_every_n_steps"), ("runner.log_every", "")),
    "report_to": ("logger", ""),
    # Model and data
    **dict.fromkeys(("model_name_or_path", "base_model", "model_name", "pretrained_model_name_or_path"), ("model.llm.path", "")),
    **dict.fromkeys(("num_layers", "n_layers"), ("model.tower.layers", "where the tower has layers")),
    **dict.fromkeys(("num_neighbors", "neighbors", "num_neighbours"), ("dataset.sampler.fanout", "")),
    **dict.fromkeys(("num_hops", "k_hop"), ("dataset.sampler.hops", "")),
    **dict.fromkeys(("train_ratio", "train_size"), ("dataset.split.train", "")),
    **dict.fromkeys(("val_ratio", "val_size"), ("dataset.split.val", "")),
    **dict.fromkeys(("data_path", "dataset_path", "data_dir"), ("dataset.path", "with dataset=folder; for tables dataset=csv")),
    # Evaluation
    **dict.fromkeys(("num_samples", "max_samples", "n_samples"), ("limit", "")),
    **dict.fromkeys(("ckpt", "model_path"), ("checkpoint", "")),
}

#: What the same is called in an evaluation, and what only an evaluation has.
EVALUATION = {"runner.accelerator": "accelerator", "runner.devices": "devices", "runner.threads": "threads"}
OF_EVALUATION = ("limit", "checkpoint")


def our_word(key: str, *, evaluation: bool) -> str | None:
    """The hint about a key that is unknown here and called otherwise by us, a sentence; None where there is none."""
    word = key.rpartition(".")[2]
    if word in WORDS:
        ours, more = WORDS[word]
        ours = EVALUATION.get(ours, ours) if evaluation else ours
        elsewhere = ours.startswith(("runner", "model", "start_from", "logger")) if evaluation else ours in OF_EVALUATION
        return None if elsewhere or ours == key else f"Here it is {ours}{f' ({more})' if more else ''}."
    groups = [group for group in config_groups() if group.endswith(f"/{word}")]
    choose = "." not in key and len(groups) == 1 and not evaluation
    return f"Here it is {groups[0]}=... (graphgpt ls {groups[0]})." if choose else None
