r"""Which optimiser suits a CSV file? Here one of scikit-learn's, written first.

python examples/table.py

The same in a shell: lrjax select --config=libsvm --workdir=runs/cancer \
    "--config.tasks=table:runs/cancer.csv?target=diagnosis&hidden=32"
"""

from pathlib import Path

from sklearn.datasets import load_breast_cancer

import lrjax

cancer = load_breast_cancer(as_frame=True)
frame = cancer.frame.assign(diagnosis=cancer.target_names[cancer.target])
Path("runs").mkdir(exist_ok=True)
frame.drop(columns="target").to_csv("runs/cancer.csv", index=False)

# Texts are classes and categories, rows are split 60/20/20, columns standardised;
# `hidden=32` is a network with one hidden layer, without it regression is logistic.
task = "table:runs/cancer.csv?target=diagnosis&hidden=32"
found = lrjax.select(task, ["adam", "prodigy", "momentum"], budget=8, epochs=20)
print(found)
