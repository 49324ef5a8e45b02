r"""Which optimiser suits a Trainer of Hugging Face? A race around it, on a tiny BERT.

python examples/hf_trainer.py

It needs torch, accelerate, prodigyopt and schedulefree.
"""

import torch
import transformers as hf

import lrjax

# Is there more of word 5 than of word 6 in a text of 16 words?
words = torch.randint(5, 12, (1500, 16), generator=torch.Generator().manual_seed(0))
labels = ((words == 5).sum(1) > (words == 6).sum(1)).long()
rows = [{"input_ids": w, "labels": y} for w, y in zip(words, labels, strict=True)]
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
config = hf.BertConfig(vocab_size=12, intermediate_size=64, **sizes)
quiet = {"report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False}
methods = ["adamw_cosine", "prodigy", "schedule_free_adamw"]
race = lrjax.Race(methods, budget=4, horizon=100, folder="race")
for job in race:
    hf.set_seed(job.seed)
    model = hf.BertForSequenceClassification(config)
    # A job that was killed resumes from its last checkpoint.
    steps = {"max_steps": job.stop, "save_steps": 50, "per_device_train_batch_size": 32}
    trainer = hf.Trainer(
        model,
        hf.TrainingArguments(job.checkpoint, **steps, **quiet),
        train_dataset=rows[:1000],
        eval_dataset=rows[1000:],
        optimizers=job.torch(model.parameters()),
    )
    found = job.checkpoint.exists()
    trainer.train(resume_from_checkpoint=found and any(job.checkpoint.iterdir()))
    job.tell(loss=trainer.evaluate()["eval_loss"])
print(race.answer())
